"""The benchmark's own context `benchmarks`: accounts, and what is paid in."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from events import Command, Event, Instant, Key, Refusal, ShortText
from handlers import Aggregate, Worker

worker = Worker("benchmarks")


class Deposit(Command, public=True):
    """Pay in."""

    account_id: Key[UUID]
    amount_minor: int
    """In minor units."""
    reference: ShortText


class Deposited(Event):
    """Money was paid in."""

    account_id: Key[UUID]
    amount_minor: int
    """In minor units."""
    balance_minor: int
    """What the account holds now, in minor units."""
    reference: ShortText
    deposited_at: Instant


class DepositRefused(Refusal):
    """Nothing was paid in."""

    account_id: Key[UUID]


class Account(Aggregate):
    """An account, and what is in it."""

    account_id: Key[UUID]
    balance_minor: int = 0
    deposits: int = 0


@worker.evolves
def deposited(account: Account, event: Deposited) -> Account:
    """Hold more."""
    return account.model_copy(update={"balance_minor": event.balance_minor, "deposits": account.deposits + 1})


@worker.on
def deposit(asked: Deposit, account: Account, now: datetime) -> Deposited | DepositRefused:
    """Take any amount but none."""
    if asked.amount_minor <= 0:
        return DepositRefused(account_id=asked.account_id, reason="amount_minor: must be more than 0")
    return Deposited(
        account_id=asked.account_id,
        amount_minor=asked.amount_minor,
        balance_minor=account.balance_minor + asked.amount_minor,
        reference=asked.reference,
        deposited_at=now,
    )
