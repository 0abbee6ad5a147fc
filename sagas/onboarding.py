"""A verified person gets an account and the trial product; if that cannot be, or the verification ends, neither.

Each step waits a minute for its answer and asks three times. Forward, silence leads to compensation; in compensation,
silence is stuck and shown, and goes on by itself if the answer comes after all.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Never, TypeVar

from pydantic import BaseModel, ConfigDict

from events import NewId, PersonId
from events.accounts import (
    AccountActivated,
    AccountClosed,
    AccountId,
    AccountOpened,
    ActivateAccount,
    ActivationRefused,
    CloseAccount,
    ClosureRefused,
    OpenAccount,
    OpeningRefused,
)
from events.entitlements import (
    TRIAL_PRODUCT,
    AccessGranted,
    AccessRefused,
    AccessRevoked,
    GrantAccess,
    RevocationRefused,
    RevokeAccess,
)
from events.identity import UserVerified, VerificationRevoked
from sagas import Compensated, Done, Saga, State, Step, Stuck, go, stay

saga = Saga("onboarding", by="person_id")
for _answer in (
    AccountOpened,
    OpeningRefused,
    AccountActivated,
    ActivationRefused,
    AccountClosed,
    ClosureRefused,
    AccessGranted,
    AccessRefused,
    AccessRevoked,
    RevocationRefused,
):
    saga.correlates(_answer, by="onboarding_id")

TRIES = 3
"""How often a command is sent before its silence counts as an answer."""


class Case(BaseModel):
    """What an onboarding remembers wherever it stands."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    person_id: PersonId
    version: int
    """The verification that it rests on."""
    account_id: AccountId
    ours: bool = False
    """Whether this onboarding opened the account: only then does undoing close it."""

    def resting_on(self, version: int) -> Case:
        """Give the same case, resting on another verification."""
        return self.model_copy(update={"version": version})


class Waiting(State):
    """A command is sent, its answer awaited."""

    within = timedelta(minutes=1)

    case: Case
    tries: int = 1
    """How often the command was sent."""


class OpeningAccount(Waiting):
    """An account is asked for."""


class GrantingTrial(Waiting):
    """There is an account; access to the trial product is asked for."""


class ActivatingAccount(Waiting):
    """There is access; the account is about to become usable."""


class Onboarded(Done):
    """The person has a usable account and the trial product."""

    case: Case


class RevokingTrial(Waiting):
    """The onboarding is being undone: first the access goes."""

    renewed: int | None = None
    """A higher verification that came meanwhile: once undone, it begins anew."""


class ClosingAccount(Waiting):
    """The onboarding is being undone: then the account is closed."""

    renewed: int | None = None


class Undone(Compensated):
    """Nothing of the onboarding is left. Another verification begins it anew."""

    case: Case


class UndoingStuck(Stuck):
    """Undoing got no answer. It goes on when the answer comes; until then an operator is needed."""

    case: Case
    renewed: int | None = None


W = TypeVar("W", bound=Waiting)
Forward = OpeningAccount | GrantingTrial | ActivatingAccount
Undoing = RevokingTrial | ClosingAccount | UndoingStuck
Anywhere = Forward | Onboarded | Undoing | Undone


@saga.starts
def verified(event: UserVerified, new_id: NewId) -> Step[OpenAccount]:
    """Ask for an account."""
    return _begin(event.person_id, event.verification_version, new_id)


@saga.on
def verified_anew(was: Forward | Onboarded, event: UserVerified) -> Step[Never]:
    """Rest on the higher version."""
    if event.verification_version <= was.case.version:
        return stay()
    return go(was.model_copy(update={"case": was.case.resting_on(event.verification_version)}))


@saga.on
def verified_while_undoing(was: Undoing, event: UserVerified) -> Step[Never]:
    """Begin anew, but only once undone: two onboardings of one person must not meet."""
    if event.verification_version <= was.case.version:
        return stay()
    return go(was.model_copy(update={"renewed": event.verification_version}))


@saga.on
def verified_again(was: Undone, event: UserVerified, new_id: NewId) -> Step[OpenAccount]:
    """Begin anew."""
    if event.verification_version <= was.case.version:
        return stay()
    return _begin(was.case.person_id, event.verification_version, new_id)


@saga.on
def revoked_before_account(was: OpeningAccount, _: VerificationRevoked) -> Step[CloseAccount]:
    """Undo: should the account be opened yet, its closing comes after that."""
    return _close(was.case)


@saga.on
def revoked(was: GrantingTrial | ActivatingAccount | Onboarded, _: VerificationRevoked) -> Step[RevokeAccess]:
    """Undo what rests on the verification."""
    return _revoke(was.case)


@saga.on
def revoked_while_undoing(was: Undoing, event: VerificationRevoked) -> Step[Never]:
    """Do not begin anew with what is revoked, too."""
    if was.renewed is None or event.verification_version < was.renewed:
        return stay()
    return go(was.model_copy(update={"case": was.case.resting_on(was.renewed), "renewed": None}))


@saga.on
def revoked_when_undone(_: Undone, __: VerificationRevoked) -> Step[Never]:
    """Nothing is left to undo."""
    return stay()


@saga.on
def opened(was: OpeningAccount, event: AccountOpened) -> Step[GrantAccess]:
    """Ask for the trial product."""
    return _grant(was.case.model_copy(update={"account_id": event.account_id, "ours": True}))


@saga.on
def not_opened(was: OpeningAccount, event: OpeningRefused) -> Step[GrantAccess]:
    """Go on with the account that the person has; without a usable one there is nothing to do, and nothing to undo."""
    if event.present_id is None or event.present_status == "suspended":
        return go(Undone(case=was.case))
    return _grant(was.case.model_copy(update={"account_id": event.present_id}))


@saga.on
def opened_already(
    _: GrantingTrial | ActivatingAccount | Onboarded | Undoing | Undone, __: AccountOpened | OpeningRefused
) -> Step[Never]:
    """The answer to a repeated command; what was opened while undoing has its closing behind it."""
    return stay()


@saga.on
def granted(was: GrantingTrial, _: AccessGranted | AccessRefused) -> Step[ActivateAccount]:
    """Have the account activated; also when the person has the product already, by another grant."""
    return go(ActivatingAccount(case=was.case), _activation(was.case))


@saga.on
def granted_already(
    _: OpeningAccount | ActivatingAccount | Onboarded | Undoing | Undone, __: AccessGranted | AccessRefused
) -> Step[Never]:
    """The answer to a repeated command; what was granted while undoing has its revocation behind it."""
    return stay()


@saga.on
def activated(was: ActivatingAccount, _: AccountActivated) -> Step[Never]:
    """The promise is kept."""
    return go(Onboarded(case=was.case))


@saga.on
def not_activated(was: ActivatingAccount, event: ActivationRefused) -> Step[RevokeAccess]:
    """An account that is active already will do; with any other the promise cannot be kept."""
    return go(Onboarded(case=was.case)) if event.status == "active" else _revoke(was.case)


@saga.on
def activated_already(
    _: OpeningAccount | GrantingTrial | Onboarded | Undoing | Undone, __: AccountActivated | ActivationRefused
) -> Step[Never]:
    """The answer to a repeated command."""
    return stay()


@saga.on
def trial_gone(
    was: RevokingTrial | UndoingStuck, _: AccessRevoked | RevocationRefused, new_id: NewId
) -> Step[CloseAccount | OpenAccount]:
    """Close the account, if it is ours to close. A refusal means that there was no access of ours to take."""
    return _close(was.case, was.renewed) if was.case.ours else _end(was, new_id)


@saga.on
def trial_gone_otherwise(
    _: Forward | Onboarded | ClosingAccount | Undone, __: AccessRevoked | RevocationRefused
) -> Step[Never]:
    """The answer to a repeated command; or somebody else took the trial away, which is for them to decide."""
    return stay()


@saga.on
def closed(
    was: ClosingAccount | UndoingStuck, event: AccountClosed | ClosureRefused, new_id: NewId
) -> Step[OpenAccount]:
    """All is undone. A refusal means that there was no account to close."""
    return _end(was, new_id) if event.account_id == was.case.account_id else stay()


@saga.on
def closed_already(
    _: Forward | Onboarded | RevokingTrial | Undone, __: AccountClosed | ClosureRefused
) -> Step[Never]:
    """The answer to a repeated command."""
    return stay()


@saga.late
def opening_overdue(was: OpeningAccount) -> Step[OpenAccount | CloseAccount]:
    """Ask again, then undo."""
    return _close(was.case) if was.tries == TRIES else go(_again(was), _opening(was.case))


@saga.late
def granting_overdue(was: GrantingTrial) -> Step[GrantAccess | RevokeAccess]:
    """Ask again, then undo."""
    return _revoke(was.case) if was.tries == TRIES else go(_again(was), _granting(was.case))


@saga.late
def activating_overdue(was: ActivatingAccount) -> Step[ActivateAccount | RevokeAccess]:
    """Ask again, then undo."""
    return _revoke(was.case) if was.tries == TRIES else go(_again(was), _activation(was.case))


@saga.late
def revoking_overdue(was: RevokingTrial) -> Step[RevokeAccess]:
    """Ask again, then call an operator."""
    return _stuck(was, "RevokeAccess") if was.tries == TRIES else go(_again(was), _revocation(was.case))


@saga.late
def closing_overdue(was: ClosingAccount) -> Step[CloseAccount]:
    """Ask again, then call an operator."""
    return _stuck(was, "CloseAccount") if was.tries == TRIES else go(_again(was), _closure(was.case))


def _begin(person_id: PersonId, version: int, new_id: NewId) -> Step[OpenAccount]:
    case = Case(person_id=person_id, version=version, account_id=AccountId(new_id()))
    return go(OpeningAccount(case=case), _opening(case))


def _grant(case: Case) -> Step[GrantAccess]:
    return go(GrantingTrial(case=case), _granting(case))


def _revoke(case: Case) -> Step[RevokeAccess]:
    return go(RevokingTrial(case=case), _revocation(case))


def _close(case: Case, renewed: int | None = None) -> Step[CloseAccount]:
    return go(ClosingAccount(case=case, renewed=renewed), _closure(case))


def _end(was: Undoing, new_id: NewId) -> Step[OpenAccount]:
    return (
        go(Undone(case=was.case)) if was.renewed is None else _begin(was.case.person_id, was.renewed, new_id)
    )


def _stuck(was: RevokingTrial | ClosingAccount, command: str) -> Step[Never]:
    return go(
        UndoingStuck(case=was.case, renewed=was.renewed, why=f"{command} was not answered, {TRIES} times")
    )


def _again(was: W) -> W:
    return was.model_copy(update={"tries": was.tries + 1})


def _opening(case: Case) -> OpenAccount:
    return OpenAccount(account_id=case.account_id, person_id=case.person_id, onboarding_id=case.person_id)


def _granting(case: Case) -> GrantAccess:
    return GrantAccess(person_id=case.person_id, product_id=TRIAL_PRODUCT, onboarding_id=case.person_id)


def _activation(case: Case) -> ActivateAccount:
    return ActivateAccount(account_id=case.account_id, onboarding_id=case.person_id)


def _revocation(case: Case) -> RevokeAccess:
    return RevokeAccess(
        person_id=case.person_id,
        product_id=TRIAL_PRODUCT,
        reason="onboarding is undone",
        onboarding_id=case.person_id,
    )


def _closure(case: Case) -> CloseAccount:
    return CloseAccount(
        account_id=case.account_id, reason="onboarding is undone", onboarding_id=case.person_id
    )
