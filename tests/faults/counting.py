"""What the workers made of a stream, counted against what was due: lost, doubled, out of order."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass

from tests.faults.upstream import Stream
from tests.installation import Installation, order_breaks

DECIDERS = ("accounts", "payments", "entitlements")
FOLDERS = ("sagas", "projections")


@dataclass
class Count:
    """What came of a stream, against what was due."""

    lost: int = 0
    doubled: int = 0
    disordered: int = 0

    def compare(self, found: Counter[tuple[str, ...]], due: Counter[tuple[str, ...]]) -> None:
        """Count what is missing and what is too much."""
        self.lost += (due - found).total()
        self.doubled += (found - due).total()


def count_histories(installation: Installation, sent: Stream) -> Count:
    """Hold the facts of accounts against the stream: each history exactly, in order."""
    counted = Count()
    histories: dict[tuple[str, str], list[str]] = defaultdict(list)
    for row in installation.query(
        "SELECT tenant, key, type FROM accounts.events WHERE tenant = ANY($1) ORDER BY tenant, key, version",
        sent.tenants,
    ):
        histories[row["tenant"], row["key"]].append(row["type"].removeprefix("accounts."))
    for key, due in sent.histories.items():
        found = histories.pop(key, [])
        counted.compare(Counter((*key, it) for it in found), Counter((*key, it) for it in due))
        counted.disordered += Counter(found) == Counter(due) and found != due
    counted.doubled += len(histories)
    counted.doubled += installation.value(
        "SELECT count(*) FROM accounts.parked WHERE tenant = ANY($1)", sent.tenants
    )
    return counted


def count(installation: Installation, sent: Stream) -> Count:
    """Hold the facts, the read models and the flows against the stream."""
    counted = count_histories(installation, sent)

    # The read model that all partitions feed.
    spent: Counter[tuple[str, ...]] = Counter()
    payments: Counter[tuple[str, ...]] = Counter()
    for row in installation.query("SELECT * FROM read.customer_spend WHERE tenant = ANY($1)", sent.tenants):
        spent[row["tenant"], str(row["customer_id"])] = row["spent_minor"]
        payments[row["tenant"], str(row["customer_id"])] = row["payments"]
    counted.compare(spent, Counter({tuple(key): number for key, number in sent.spent.items()}))
    counted.compare(payments, Counter({tuple(key): number for key, number in sent.payments.items()}))

    # Every payment once in its context, its flow and its grant.
    paid = sum(sent.payments.values())
    for found, due in {
        "SELECT count(*) FROM payments.events WHERE type = 'payments.PaymentCompleted'": paid,
        "SELECT count(*) FROM payments.events": paid,
        "SELECT count(*) FROM entitlements.events": paid,
        "SELECT count(*) FROM read.customer_access WHERE status = 'granted'": paid,
        "SELECT count(*) FROM read.payment_history WHERE status = 'completed'": paid,
        "SELECT count(*) FROM read.saga_instances WHERE saga = 'activation' AND outcome = 'done'": paid,
        "SELECT count(*) FROM sagas.history WHERE saga = 'activation'": 2 * paid,
        "SELECT count(*) FROM sagas.early": 0,
        "SELECT count(*) FROM sagas.deadlines": 0,
    }.items():
        of_tenants = f"{found} {'AND' if 'WHERE' in found else 'WHERE'} tenant = ANY($1)"
        counted.compare(
            Counter({(found,): installation.value(of_tenants, sent.tenants)}), Counter({(found,): due})
        )
    for schema in {*DECIDERS, *FOLDERS} - {"accounts"}:
        parked = f"SELECT count(*) FROM {schema}.parked WHERE tenant = ANY($1)"
        counted.doubled += installation.value(parked, sent.tenants)
    return counted


def published(installation: Installation, sent: Stream) -> tuple[int, int, int]:
    """Sum up what the topics of facts show: records that came again, order breaks, gaps."""
    again = breaks = gaps = 0
    for context in DECIDERS:
        found = order_breaks(installation.log(f"{context}.events"), sent.tenants)
        again, breaks, gaps = again + found[0], breaks + found[1], gaps + found[2]
    found = order_breaks(installation.log("sagas.events"), sent.tenants)
    return again + found[0], breaks + found[1], gaps + found[2]
