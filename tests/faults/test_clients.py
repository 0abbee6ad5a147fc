"""Kafka clients of which a part dies, over and over, in the middle of whatever they do: what was sent is folded once, in order."""

from __future__ import annotations

import time
from functools import partial

from tests.dying import WHY
from tests.faults.counting import Count, count_histories
from tests.faults.upstream import Stream, stream
from tests.installation import Installation

SECONDS = 15


def sent_for_a_while(installation: Installation, seed: int, tenant: str) -> Stream:
    sent = stream(seed, accounts=60, payments=0, tenants=(tenant,))
    installation.send(sent.messages, per_second=len(sent.messages) / SECONDS)
    return sent


def unread(installation: Installation) -> int:
    return installation.pending().get("accounts", 0)


def replaced(installation: Installation) -> int:
    """Count in the logs the clients of which a part had died."""
    logs = (installation.home / "logs").glob("worker-*.log")
    return sum(log.read_text("utf-8").count(f"has ended: AssertionError('{WHY}')") for log in logs)


def test_clients_that_die_over_and_over_lose_double_and_reorder_nothing(installation: Installation) -> None:
    before = replaced(installation)
    mutant = partial(installation.working, "mortal", "accounts", module="tests.faults.mutants")
    with mutant(), mutant():
        sent = sent_for_a_while(installation, 11, "mortal")
        seconds = installation.until(lambda: not unread(installation), 60, "all is read")
    died = replaced(installation) - before
    counted = count_histories(installation, sent)
    print(
        f"\n{died} clients died while {len(sent.messages)} messages came; lost {counted.lost}, doubled {counted.doubled}, "
        f"out of order {counted.disordered}; all read {seconds:.1f} s after the last was sent"
    )
    assert died >= 2, "each of the two processes has met it"
    assert counted == Count(0, 0, 0)


def test_the_mutant_that_does_not_look_reads_nothing_any_more(installation: Installation) -> None:
    with installation.working("unaware", "accounts", module="tests.faults.mutants"):
        sent_for_a_while(installation, 12, "unaware")
        time.sleep(5)
        left = unread(installation)
    print(f"\n{left} messages were never read")
    assert left > 0
    with installation.working("accounts"):
        installation.until(lambda: not unread(installation), 60, "whoever comes next reads them")
