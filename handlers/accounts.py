"""Accounts decides who has an account and whether it can be used: one for each person at a time."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from events import Claim, Key, PersonId
from events.accounts import (
    AccountActivated,
    AccountClosed,
    AccountId,
    AccountOpened,
    AccountReinstated,
    AccountStatus,
    AccountSuspended,
    ActivateAccount,
    ActivationRefused,
    CloseAccount,
    ClosureRefused,
    OpenAccount,
    OpeningRefused,
    ReinstateAccount,
    ReinstatementRefused,
    SuspendAccount,
    SuspensionRefused,
)
from handlers import Aggregate, Holder, Worker

worker = Worker("accounts")


class Account(Aggregate):
    """One account. Closing it frees its person for another."""

    account_id: Key[AccountId]
    person_id: Claim[PersonId | None] = None
    status: AccountStatus = "unopened"
    before_suspension: AccountStatus = "unopened"
    """What a reinstated account becomes again."""


@worker.on
def open_account(
    asked: OpenAccount,
    account: Account,
    present: Annotated[Account | None, Holder("person_id")],
    now: datetime,
) -> AccountOpened | OpeningRefused:
    """Open the account, unless the id is used up or the person has one."""
    if account.status == "unopened" and present is None:
        return AccountOpened(
            account_id=account.account_id,
            person_id=asked.person_id,
            onboarding_id=asked.onboarding_id,
            opened_at=now,
        )
    reason = (
        f"person_id: has the account {present.account_id} already, which is {present.status}"
        if present is not None
        else f"account_id: is {account.status}; open another account under a new id"
    )
    return OpeningRefused(
        account_id=account.account_id,
        person_id=asked.person_id,
        onboarding_id=asked.onboarding_id,
        present_id=present.account_id if present is not None else None,
        present_status=present.status if present is not None else None,
        reason=reason,
    )


@worker.on
def activate(asked: ActivateAccount, account: Account, now: datetime) -> AccountActivated | ActivationRefused:
    """Let an opened account be used."""
    if account.person_id is None or account.status != "opened":
        return ActivationRefused(
            account_id=account.account_id,
            onboarding_id=asked.onboarding_id,
            status=account.status,
            reason=f"account_id: is {account.status}, only an opened account can be activated",
        )
    return AccountActivated(
        account_id=account.account_id,
        person_id=account.person_id,
        onboarding_id=asked.onboarding_id,
        activated_at=now,
    )


@worker.on
def suspend(asked: SuspendAccount, account: Account, now: datetime) -> AccountSuspended | SuspensionRefused:
    """Keep an opened or active account from being used."""
    if account.person_id is None or account.status not in {"opened", "active"}:
        return SuspensionRefused(
            account_id=account.account_id,
            status=account.status,
            reason=f"account_id: is {account.status}, only an opened or active account can be suspended",
        )
    return AccountSuspended(
        account_id=account.account_id, person_id=account.person_id, reason=asked.reason, suspended_at=now
    )


@worker.on
def reinstate(
    asked: ReinstateAccount, account: Account, now: datetime
) -> AccountReinstated | ReinstatementRefused:
    """Lift a suspension."""
    if account.person_id is None or account.status != "suspended":
        return ReinstatementRefused(
            account_id=account.account_id,
            status=account.status,
            reason=f"account_id: is {account.status}, only a suspended account can be reinstated",
        )
    return AccountReinstated(
        account_id=account.account_id, person_id=account.person_id, reason=asked.reason, reinstated_at=now
    )


@worker.on
def close(asked: CloseAccount, account: Account, now: datetime) -> AccountClosed | ClosureRefused:
    """End an account, in whatever status it is."""
    if account.person_id is None:
        return ClosureRefused(
            account_id=account.account_id,
            onboarding_id=asked.onboarding_id,
            status=account.status,
            reason=f"account_id: is {account.status}, there is nothing to close",
        )
    return AccountClosed(
        account_id=account.account_id,
        person_id=account.person_id,
        reason=asked.reason,
        onboarding_id=asked.onboarding_id,
        closed_at=now,
    )


@worker.evolves
def account_opened(account: Account, event: AccountOpened) -> Account:
    """Belong to the person."""
    return account.model_copy(update={"person_id": event.person_id, "status": "opened"})


@worker.evolves
def account_activated(account: Account, _event: AccountActivated) -> Account:
    """Be usable."""
    return account.model_copy(update={"status": "active"})


@worker.evolves
def account_suspended(account: Account, _event: AccountSuspended) -> Account:
    """Be unusable, and remember what to become again."""
    if account.status == "suspended":
        return account
    return account.model_copy(update={"status": "suspended", "before_suspension": account.status})


@worker.evolves
def account_reinstated(account: Account, _event: AccountReinstated) -> Account:
    """Be what it was."""
    return account.model_copy(update={"status": account.before_suspension})


@worker.evolves
def account_closed(account: Account, _event: AccountClosed) -> Account:
    """Be over, and let the person go."""
    return account.model_copy(update={"person_id": None, "status": "closed"})
