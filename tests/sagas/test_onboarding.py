"""Onboarding: an account and the trial for the verified; undone step by step when that cannot be or no longer holds."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from events import Command, Event, PersonId
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
from sagas.onboarding import (
    ActivatingAccount,
    Case,
    ClosingAccount,
    GrantingTrial,
    Onboarded,
    OpeningAccount,
    RevokingTrial,
    UndoingStuck,
    Undone,
)
from tests.given import NOON, Flow, flow, nth

ADA = PersonId(UUID(int=1))
FIRST, SECOND, OTHER = AccountId(nth(1)), AccountId(nth(2)), AccountId(UUID(int=99))

ASKED = Case(person_id=ADA, version=1, account_id=FIRST)
OURS = ASKED.model_copy(update={"ours": True})
FOUND = ASKED.model_copy(update={"account_id": OTHER})
ANEW = Case(person_id=ADA, version=2, account_id=SECOND)


def verified(version: int = 1) -> UserVerified:
    return UserVerified(person_id=ADA, verification_version=version, verified_at=NOON)


def revoked(version: int = 1) -> VerificationRevoked:
    return VerificationRevoked(person_id=ADA, verification_version=version, changed="email", revoked_at=NOON)


OPENED = AccountOpened(account_id=FIRST, person_id=ADA, onboarding_id=ADA, opened_at=NOON)
ACTIVATED = AccountActivated(account_id=FIRST, person_id=ADA, onboarding_id=ADA, activated_at=NOON)
CLOSED = AccountClosed(account_id=FIRST, person_id=ADA, reason="one", onboarding_id=ADA, closed_at=NOON)
NOT_CLOSED = ClosureRefused(account_id=FIRST, onboarding_id=ADA, status="unopened", reason="one")
GRANT: dict[str, Any] = {
    "person_id": ADA,
    "product_id": TRIAL_PRODUCT,
    "payment_id": None,
    "onboarding_id": ADA,
}
GRANTED = AccessGranted(**GRANT, granted_at=NOON)
HELD = AccessRefused(**GRANT, already_held=True, reason="one")
TAKEN = AccessRevoked(**GRANT, reason="one", revoked_at=NOON)
NOT_TAKEN = RevocationRefused(**GRANT, reason="one")


def not_opened(present: AccountId | None, status: Any) -> OpeningRefused:
    return OpeningRefused(
        account_id=FIRST,
        person_id=ADA,
        onboarding_id=ADA,
        present_id=present,
        present_status=status,
        reason="one",
    )


def not_activated(status: Any) -> ActivationRefused:
    return ActivationRefused(account_id=FIRST, onboarding_id=ADA, status=status, reason="one")


def open_(account_id: AccountId = FIRST) -> OpenAccount:
    return OpenAccount(account_id=account_id, person_id=ADA, onboarding_id=ADA)


def activate(account_id: AccountId = FIRST) -> ActivateAccount:
    return ActivateAccount(account_id=account_id, onboarding_id=ADA)


GRANT_TRIAL = GrantAccess(person_id=ADA, product_id=TRIAL_PRODUCT, onboarding_id=ADA)
REVOKE_TRIAL = RevokeAccess(
    person_id=ADA, product_id=TRIAL_PRODUCT, reason="onboarding is undone", onboarding_id=ADA
)
CLOSE = CloseAccount(account_id=FIRST, reason="onboarding is undone", onboarding_id=ADA)


def onboarding(*history: Event) -> Flow:
    return flow("onboarding").given(verified(), *history)


def test_a_verified_person_is_onboarded() -> None:
    it = flow("onboarding").when(verified()).then(OpeningAccount(case=ASKED), open_())
    it.when(OPENED).then(GrantingTrial(case=OURS), GRANT_TRIAL)
    it.when(GRANTED).then(ActivatingAccount(case=OURS), activate())
    it.when(ACTIVATED).then(Onboarded(case=OURS))


def test_an_account_that_the_person_has_will_do() -> None:
    it = onboarding().when(not_opened(OTHER, "active")).then(GrantingTrial(case=FOUND), GRANT_TRIAL)
    it.when(GRANTED).then(ActivatingAccount(case=FOUND), activate(OTHER))
    it.when(not_activated("active")).then(Onboarded(case=FOUND))


@pytest.mark.parametrize("answer", [not_opened(OTHER, "suspended"), not_opened(None, None)])
def test_without_a_usable_account_nothing_is_done(answer: OpeningRefused) -> None:
    onboarding().when(answer).then(Undone(case=ASKED))


def test_a_trial_that_the_person_has_will_do() -> None:
    onboarding(OPENED).when(HELD).then(ActivatingAccount(case=OURS), activate())


def test_an_account_that_cannot_be_activated_undoes_it_all() -> None:
    it = (
        onboarding(OPENED, GRANTED)
        .when(not_activated("suspended"))
        .then(RevokingTrial(case=OURS), REVOKE_TRIAL)
    )
    it.when(TAKEN).then(ClosingAccount(case=OURS), CLOSE)
    it.when(CLOSED).then(Undone(case=OURS))


def test_an_account_found_is_not_closed() -> None:
    it = onboarding(not_opened(OTHER, "active")).when(revoked()).then(RevokingTrial(case=FOUND), REVOKE_TRIAL)
    it.when(NOT_TAKEN).then(Undone(case=FOUND))


@pytest.mark.parametrize(
    ("history", "state", "command", "undoing"),
    [
        ((), OpeningAccount(case=ASKED, tries=3), open_(), CLOSE),
        ((OPENED,), GrantingTrial(case=OURS, tries=3), GRANT_TRIAL, REVOKE_TRIAL),
        ((OPENED, GRANTED), ActivatingAccount(case=OURS, tries=3), activate(), REVOKE_TRIAL),
    ],
)
def test_silence_is_asked_three_times_and_then_undone(
    history: tuple[Event, ...], state: Any, command: Command, undoing: Command
) -> None:
    it = onboarding(*history).late(2).then(state, command).late()
    assert it.sent == (undoing,)


def test_silence_while_undoing_is_stuck_and_goes_on_with_the_late_answer() -> None:
    it = onboarding(OPENED, revoked()).late(2).then(RevokingTrial(case=OURS, tries=3), REVOKE_TRIAL)
    it.late().then(UndoingStuck(case=OURS, why="RevokeAccess was not answered, 3 times"))
    it.when(TAKEN).then(ClosingAccount(case=OURS), CLOSE)
    it.late(3).then(UndoingStuck(case=OURS, why="CloseAccount was not answered, 3 times"))
    it.when(CLOSED).then(Undone(case=OURS))


@pytest.mark.parametrize("answer", [CLOSED, NOT_CLOSED])
def test_a_revoked_verification_undoes_what_is_not_answered_yet(answer: Event) -> None:
    it = onboarding().when(revoked()).then(ClosingAccount(case=ASKED), CLOSE)
    it.when(OPENED).then(ClosingAccount(case=ASKED))
    it.when(answer).then(Undone(case=ASKED))


@pytest.mark.parametrize("history", [(OPENED,), (OPENED, GRANTED), (OPENED, GRANTED, ACTIVATED)])
def test_a_revoked_verification_undoes_what_rests_on_it(history: tuple[Event, ...]) -> None:
    it = onboarding(*history).when(revoked()).then(RevokingTrial(case=OURS), REVOKE_TRIAL)
    it.given(TAKEN).when(CLOSED).then(Undone(case=OURS))


def test_a_higher_verification_is_what_it_rests_on_then() -> None:
    it = onboarding(OPENED, GRANTED, ACTIVATED)
    it.when(verified(2)).then(Onboarded(case=OURS.resting_on(2)))
    it.when(verified(1)).then(Onboarded(case=OURS.resting_on(2)))
    onboarding(OPENED).when(verified(2)).then(GrantingTrial(case=OURS.resting_on(2)))


def test_what_is_undone_begins_anew_with_a_higher_verification() -> None:
    it = onboarding(OPENED, revoked(), TAKEN, CLOSED)
    it.when(verified(1)).then(Undone(case=OURS))
    it.when(verified(2)).then(OpeningAccount(case=ANEW), open_(SECOND))


def test_a_higher_verification_waits_until_all_is_undone() -> None:
    it = onboarding(OPENED, revoked()).when(verified(2)).then(RevokingTrial(case=OURS, renewed=2))
    it.when(TAKEN).then(ClosingAccount(case=OURS, renewed=2), CLOSE)
    it.when(CLOSED).then(OpeningAccount(case=ANEW), open_(SECOND))


def test_a_higher_verification_that_is_revoked_while_it_waits_is_forgotten() -> None:
    it = onboarding(OPENED, revoked(), verified(2)).when(revoked(2))
    it.then(RevokingTrial(case=OURS.resting_on(2)))
    it.given(TAKEN).when(CLOSED).then(Undone(case=OURS.resting_on(2)))


def test_the_closing_of_a_former_account_closes_nothing_now() -> None:
    it = onboarding(OPENED, revoked(), TAKEN, CLOSED, verified(2), revoked(2))
    it.when(NOT_CLOSED).then(ClosingAccount(case=ANEW))


def test_a_trial_that_somebody_takes_away_is_theirs_to_decide() -> None:
    onboarding(OPENED, GRANTED, ACTIVATED).when(TAKEN).then(Onboarded(case=OURS))
