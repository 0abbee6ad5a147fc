"""The counting would notice: workers without a guard are counted as losing or doubling what they are sent."""

from __future__ import annotations

import time
from functools import partial

from tests.faults.counting import count_histories
from tests.faults.upstream import stream
from tests.installation import Installation


def read_by_accounts(installation: Installation) -> bool:
    return "accounts" not in installation.pending()


def test_without_an_inbox_duplicates_are_counted(installation: Installation) -> None:
    sent = stream(7, accounts=10, payments=0, tenants=("forgetful",))
    with installation.working("forgetful", "accounts", module="tests.faults.mutants"):
        for _ in range(2):
            installation.send(sent.messages)
            installation.until(lambda: read_by_accounts(installation), 60, "all is read")
    counted = count_histories(installation, sent)
    print(f"\nwithout an inbox: doubled {counted.doubled} of {len(sent.messages)} messages sent twice")
    assert counted.doubled > 0


def test_with_the_checkpoint_ahead_of_the_effects_killed_workers_are_counted_as_losing(
    installation: Installation,
) -> None:
    sent = stream(8, accounts=40, payments=0, tenants=("hasty",))
    worker = installation.worker("hasty", "accounts", module="tests.faults.mutants")
    kills = 0
    while kills < 3:
        worker.start()
        before = consumed(installation)
        installation.send(sent.messages[kills * 60 : (kills + 1) * 60])
        installation.until(partial(moved, installation, before), 60, "a checkpoint moves")
        worker.kill()
        kills += 1
    with installation.working("hasty", "accounts", module="tests.faults.mutants"):
        installation.send(sent.messages[kills * 60 :])
        installation.until(lambda: read_by_accounts(installation), 60, "all is read")
        time.sleep(1)
    counted = count_histories(installation, sent)
    print(f"\nwith the checkpoint ahead: lost {counted.lost} in {kills} kills")
    assert counted.lost > 0


def consumed(installation: Installation) -> int:
    """Say how far accounts has come."""
    positions = "SELECT sum(next_offset)::bigint FROM accounts.checkpoints WHERE topic = 'accounts.inbound'"
    return int(installation.value(positions))


def moved(installation: Installation, before: int) -> bool:
    """Whether it has come further."""
    return consumed(installation) > before
