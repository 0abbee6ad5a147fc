"""A worker that is fast and wrong: its read model passes over one payment in a hundred."""

from __future__ import annotations

import sys

from events.payments import PaymentCompleted
from tests.benchmarks import spending
from tests.benchmarks.spending import Spend
from tests.benchmarks.worker import work


def passing_over(event: PaymentCompleted, row: Spend | None) -> Spend:
    """Fold, but for some."""
    if event.amount.minor % 100 == 0:
        return row or Spend(customer_id=event.customer_id)
    return spending.paid(event, row)


if __name__ == "__main__":
    spending.projection.folds = [
        (passing_over if fold is spending.paid else fold, keys) for fold, keys in spending.projection.folds
    ]
    sys.exit(work(sys.argv[1:]))
