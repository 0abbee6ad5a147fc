"""How far each person's onboarding has come, read from the facts of identity, accounts and entitlements.

They come on streams of their own, in any order among each other. So each stream has columns of its own, the latest
opened account counts, and the stage is worked out from the columns.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from events import Key, PersonId
from events.accounts import (
    AccountActivated,
    AccountClosed,
    AccountId,
    AccountOpened,
    AccountReinstated,
    AccountSuspended,
)
from events.entitlements import TRIAL_PRODUCT, AccessGranted, AccessRevoked
from events.identity import UserVerified, VerificationRevoked
from projections import Projection, Query, Row, Since, Until

projection = Projection("onboarding_progress")

Stage = Literal["waiting", "verified", "account_opened", "trial_granted", "onboarded", "undone"]


class Progress(Row):
    """How far the onboarding of one person has come."""

    person_id: Key[PersonId]
    """The person, as identity knows them."""
    stage: Stage = "waiting"
    """`waiting`: not verified; `verified`; `account_opened`; `trial_granted`: has account and trial; `onboarded`: has a
    usable account; `undone`: was verified, and is no longer or has lost the account."""
    verification_version: int = 0
    """The latest verification of the person, counted from 1; 0: none yet."""
    verified_at: datetime | None = None
    """When the latest verification was completed."""
    revoked_at: datetime | None = None
    """When the latest verification ceased to hold; empty: it holds, or there was none."""
    account_id: AccountId | None = None
    """The latest account of the person."""
    account_opened_at: datetime | None = None
    """When that account was opened."""
    account_activated_at: datetime | None = None
    """When that account became usable."""
    account_suspended_at: datetime | None = None
    """When that account was suspended; empty: it is not."""
    account_closed_at: datetime | None = None
    """When that account was closed; empty: it is not."""
    trial_granted_at: datetime | None = None
    """When the person was given the trial product; empty: they do not have it."""
    trial_revoked_at: datetime | None = None
    """When the trial product was taken back; empty: it was not, or was given again."""


@projection.on
def verified(event: UserVerified, row: Progress | None) -> Progress:
    """Onboarding begins."""
    return _staged(
        row,
        event.person_id,
        verification_version=event.verification_version,
        verified_at=event.verified_at,
        revoked_at=None,
    )


@projection.on
def unverified(event: VerificationRevoked, row: Progress | None) -> Progress:
    """Onboarding is undone."""
    return _staged(
        row, event.person_id, verification_version=event.verification_version, revoked_at=event.revoked_at
    )


@projection.on
def opened(event: AccountOpened, row: Progress | None) -> Progress:
    """Has an account; an older one no longer counts."""
    if row is not None and row.account_id is not None and row.account_opened_at is not None:
        known = (row.account_opened_at, row.account_id)
        if (event.opened_at, event.account_id) <= known:
            return row
    return _staged(
        row,
        event.person_id,
        account_id=event.account_id,
        account_opened_at=event.opened_at,
        account_activated_at=None,
        account_suspended_at=None,
        account_closed_at=None,
    )


@projection.on
def activated(event: AccountActivated, row: Progress | None) -> Progress | None:
    """Has a usable account."""
    return _of_account(row, event.account_id, account_activated_at=event.activated_at)


@projection.on
def suspended(event: AccountSuspended, row: Progress | None) -> Progress | None:
    """Has an account that cannot be used for now."""
    return _of_account(row, event.account_id, account_suspended_at=event.suspended_at)


@projection.on
def reinstated(event: AccountReinstated, row: Progress | None) -> Progress | None:
    """Has a usable account again."""
    return _of_account(row, event.account_id, account_suspended_at=None)


@projection.on
def closed(event: AccountClosed, row: Progress | None) -> Progress | None:
    """Has no account any more."""
    return _of_account(row, event.account_id, account_closed_at=event.closed_at)


@projection.on
def granted(event: AccessGranted, row: Progress | None) -> Progress | None:
    """Has the trial product."""
    if event.product_id != TRIAL_PRODUCT:
        return row
    return _staged(row, event.person_id, trial_granted_at=event.granted_at, trial_revoked_at=None)


@projection.on
def revoked(event: AccessRevoked, row: Progress | None) -> Progress | None:
    """Has the trial product no longer."""
    if event.product_id != TRIAL_PRODUCT:
        return row
    return _staged(row, event.person_id, trial_granted_at=None, trial_revoked_at=event.revoked_at)


@projection.query
class OfPerson(Query[Progress]):
    """How far the onboarding of one person has come."""

    person_id: PersonId
    """The person."""


@projection.query
class ByStage(Query[Progress]):
    """Who is at a stage, the latest verified first."""

    order = ("-verified_at",)

    stage: Stage | None = None
    """Only those at this stage."""
    verified_since: Annotated[datetime | None, Since("verified_at")] = None
    """Only those verified at or after this moment."""
    verified_until: Annotated[datetime | None, Until("verified_at")] = None
    """Only those verified before this moment."""


def _of_account(row: Progress | None, account_id: AccountId, **columns: datetime | None) -> Progress | None:
    # An account's own stream is in order: what comes for another account than the row's comes for an older one.
    if row is None or row.account_id != account_id:
        return row
    return _staged(row, row.person_id, **columns)


def _staged(row: Progress | None, person_id: PersonId, **columns: object) -> Progress:
    now = (row or Progress(person_id=person_id)).model_copy(update=columns)
    return now.model_copy(update={"stage": _stage(now)})


def _stage(row: Progress) -> Stage:
    if row.revoked_at is not None or row.account_closed_at is not None:
        return "undone"
    if row.verified_at is None:
        return "waiting"
    if row.account_id is None:
        return "verified"
    if row.account_activated_at is not None and row.account_suspended_at is None:
        return "onboarded"
    return "trial_granted" if row.trial_granted_at is not None else "account_opened"
