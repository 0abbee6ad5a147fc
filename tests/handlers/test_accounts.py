"""Accounts: one for each person at a time, and a suspension that nothing but its lifting ends."""

from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from events import Command, PersonId
from events.accounts import (
    AccountActivated,
    AccountClosed,
    AccountId,
    AccountOpened,
    AccountReinstated,
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
from handlers.accounts import Account
from tests.given import NOON, context

ADA, BOB = PersonId(UUID(int=1)), PersonId(UUID(int=2))
A1, A2 = AccountId(UUID(int=11)), AccountId(UUID(int=12))

OPEN = OpenAccount(account_id=A1, person_id=ADA, onboarding_id=ADA)
ACTIVATE = ActivateAccount(account_id=A1, onboarding_id=ADA)
SUSPEND = SuspendAccount(account_id=A1, reason="fraud")
REINSTATE = ReinstateAccount(account_id=A1, reason="cleared")
CLOSE = CloseAccount(account_id=A1, reason="done", onboarding_id=ADA)


def test_an_account_is_opened_activated_and_closed() -> None:
    accounts = context("accounts").when(OPEN)
    accounts.then(AccountOpened(account_id=A1, person_id=ADA, onboarding_id=ADA, opened_at=NOON))
    accounts.when(ACTIVATE)
    accounts.then(AccountActivated(account_id=A1, person_id=ADA, onboarding_id=ADA, activated_at=NOON))
    accounts.when(CLOSE)
    accounts.then(
        AccountClosed(account_id=A1, person_id=ADA, reason="done", onboarding_id=ADA, closed_at=NOON)
    )


def test_a_person_gets_no_second_account_and_learns_which_is_theirs() -> None:
    context("accounts").given(OPEN, ACTIVATE).when(OpenAccount(account_id=A2, person_id=ADA)).then(
        OpeningRefused(
            account_id=A2,
            person_id=ADA,
            onboarding_id=None,
            present_id=A1,
            present_status="active",
            reason=f"person_id: has the account {A1} already, which is active",
        )
    )


def test_asking_again_for_the_same_account_names_it() -> None:
    accounts = context("accounts").given(OPEN).when(OPEN)
    accounts.refused(OpeningRefused, "person_id")
    (refusal,) = accounts.answer
    assert isinstance(refusal, OpeningRefused)
    assert (refusal.present_id, refusal.onboarding_id) == (A1, ADA)


def test_an_id_names_one_account_for_ever() -> None:
    accounts = context("accounts").given(OPEN)
    accounts.when(OpenAccount(account_id=A1, person_id=BOB)).refused(OpeningRefused, "account_id: is opened")
    accounts.given(CLOSE).when(OPEN).refused(OpeningRefused, "account_id: is closed")


def test_a_closed_account_frees_its_person() -> None:
    accounts = context("accounts").given(OPEN, CLOSE).when(OpenAccount(account_id=A2, person_id=ADA))
    accounts.then(AccountOpened(account_id=A2, person_id=ADA, onboarding_id=None, opened_at=NOON))


@pytest.mark.parametrize("before", [(), (ACTIVATE,)])
def test_a_suspension_ends_as_it_began(before: tuple[Command, ...]) -> None:
    accounts = context("accounts").given(OPEN, *before)
    status = accounts.state(Account, A1).status
    accounts.when(SUSPEND).then(
        AccountSuspended(account_id=A1, person_id=ADA, reason="fraud", suspended_at=NOON)
    )
    accounts.when(ACTIVATE).refused(ActivationRefused, "is suspended")
    accounts.when(SUSPEND).refused(SuspensionRefused, "is suspended")
    accounts.when(REINSTATE)
    accounts.then(AccountReinstated(account_id=A1, person_id=ADA, reason="cleared", reinstated_at=NOON))
    assert accounts.state(Account, A1).status == status


def test_what_is_not_there_cannot_be_changed() -> None:
    accounts = context("accounts")
    accounts.when(ACTIVATE).refused(ActivationRefused, "account_id: is unopened")
    accounts.when(SUSPEND).refused(SuspensionRefused, "account_id: is unopened")
    accounts.when(REINSTATE).refused(ReinstatementRefused, "account_id: is unopened")
    accounts.when(CLOSE).refused(ClosureRefused, "account_id: is unopened")


def test_activating_again_says_that_it_is_active() -> None:
    context("accounts").given(OPEN, ACTIVATE).when(ACTIVATE).then(
        ActivationRefused(
            account_id=A1,
            onboarding_id=ADA,
            status="active",
            reason="account_id: is active, only an opened account can be activated",
        )
    )


DEEDS: list[Command] = [
    command
    for account_id in (A1, A2)
    for command in (
        OpenAccount(account_id=account_id, person_id=ADA),
        OpenAccount(account_id=account_id, person_id=BOB),
        ActivateAccount(account_id=account_id),
        SuspendAccount(account_id=account_id, reason="one"),
        ReinstateAccount(account_id=account_id, reason="one"),
        CloseAccount(account_id=account_id, reason="one"),
    )
]


@given(st.lists(st.sampled_from(DEEDS), max_size=20))
def test_a_person_never_has_two_accounts(asked: list[Command]) -> None:
    accounts = context("accounts")
    for command in asked:
        assert accounts.when(command).answer, "every command is answered"
        owners = [account.person_id for account in accounts.all_of(Account) if account.person_id is not None]
        assert len(owners) == len(set(owners))
