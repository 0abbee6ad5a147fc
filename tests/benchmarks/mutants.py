"""A worker that is fast and wrong: in one case in a hundred, its read model and its decider do not count the money."""

from __future__ import annotations

import sys
from datetime import datetime

from events.payments import PaymentCompleted
from tests.benchmarks import ledger, spending
from tests.benchmarks.ledger import Account, Deposit, Deposited, DepositRefused
from tests.benchmarks.spending import Spend
from tests.benchmarks.worker import work


def passing_over(event: PaymentCompleted, row: Spend | None) -> Spend:
    """Fold, but for some."""
    if event.amount.minor % 100 == 0:
        return row or Spend(customer_id=event.customer_id)
    return spending.paid(event, row)


def short_changing(asked: Deposit, account: Account, now: datetime) -> Deposited | DepositRefused:
    """Take the money, and do not always add it."""
    made = ledger.deposit(asked, account, now)
    if asked.amount_minor % 100 == 0 and isinstance(made, Deposited):
        return made.model_copy(update={"balance_minor": account.balance_minor})
    return made


if __name__ == "__main__":
    spending.projection.folds = [
        (passing_over if fold is spending.paid else fold, keys) for fold, keys in spending.projection.folds
    ]
    ledger.worker.handlers = [short_changing]
    sys.exit(work(sys.argv[1:]))
