"""Accounts: what a person uses the platform with, one for each person at a time.

`onboarding_id` is the person whose onboarding asked; events repeat it, so that each onboarding sees its own answers only.
"""

from __future__ import annotations

from typing import Literal, NewType
from uuid import UUID

from events import Command, Event, Instant, Key, PersonId, Refusal, ShortText

AccountId = NewType("AccountId", UUID)

AccountStatus = Literal["unopened", "opened", "active", "suspended", "closed"]


class OpenAccount(Command, public=True):
    """Open an account. A person whose account is not closed gets no second one."""

    account_id: Key[AccountId]
    person_id: PersonId
    onboarding_id: PersonId | None = None


class ActivateAccount(Command, public=True):
    """Let an opened account be used. It does not lift a suspension."""

    account_id: Key[AccountId]
    onboarding_id: PersonId | None = None


class SuspendAccount(Command, public=True):
    """Keep an account from being used until it is reinstated."""

    account_id: Key[AccountId]
    reason: ShortText


class ReinstateAccount(Command, public=True):
    """Lift a suspension: the account is what it was before."""

    account_id: Key[AccountId]
    reason: ShortText


class CloseAccount(Command, public=True):
    """End an account for good; the person may open another."""

    account_id: Key[AccountId]
    reason: ShortText
    onboarding_id: PersonId | None = None


class AccountOpened(Event):
    """The person has an account, which cannot be used yet."""

    account_id: Key[AccountId]
    person_id: PersonId
    onboarding_id: PersonId | None
    opened_at: Instant


class AccountActivated(Event):
    """The account can be used."""

    account_id: Key[AccountId]
    person_id: PersonId
    onboarding_id: PersonId | None
    activated_at: Instant


class AccountSuspended(Event):
    """The account cannot be used for now."""

    account_id: Key[AccountId]
    person_id: PersonId
    reason: ShortText
    suspended_at: Instant


class AccountReinstated(Event):
    """The suspension is lifted."""

    account_id: Key[AccountId]
    person_id: PersonId
    reason: ShortText
    reinstated_at: Instant


class AccountClosed(Event):
    """The account has ended."""

    account_id: Key[AccountId]
    person_id: PersonId
    reason: ShortText
    onboarding_id: PersonId | None
    closed_at: Instant


class OpeningRefused(Refusal):
    """No account was opened. If the person has one, it is named."""

    account_id: Key[AccountId]
    person_id: PersonId
    onboarding_id: PersonId | None
    present_id: AccountId | None
    """The person's present account."""
    present_status: AccountStatus | None


class ActivationRefused(Refusal):
    """The account was not activated; `active` means that it already was."""

    account_id: Key[AccountId]
    onboarding_id: PersonId | None
    status: AccountStatus


class SuspensionRefused(Refusal):
    """The account was not suspended."""

    account_id: Key[AccountId]
    status: AccountStatus


class ReinstatementRefused(Refusal):
    """There was no suspension to lift."""

    account_id: Key[AccountId]
    status: AccountStatus


class ClosureRefused(Refusal):
    """There was no account to close, or it is closed already."""

    account_id: Key[AccountId]
    onboarding_id: PersonId | None
    status: AccountStatus
