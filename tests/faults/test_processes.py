"""Worker processes are killed and held up, broker and database fall, and what was sent is folded as by one plain loop.

The workers are the product's own command. What they make of the stream (facts, topics, read models, flows) is compared
with what `tests.faults.upstream` works out in one thread.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager

import pytest

from tests.faults.counting import DECIDERS, FOLDERS, Count, count, published
from tests.faults.upstream import Stream, stream
from tests.installation import Installation, Process, Sent

RECOVERED_S = 60


def idle(installation: Installation) -> list[str]:
    """Name the consumers that nobody runs here."""
    return [it for it in installation.catalog.consumers if it.partition(".")[0] in {"identity", "customers"}]


@pytest.fixture(scope="module")
def workers(installation: Installation) -> list[Process]:
    """Two processes for the deciders and two for what listens to them, relays included."""
    started = [installation.worker(*names) for names in (DECIDERS, FOLDERS) * 2]
    for worker in started:
        worker.start()
    return started


@contextmanager
def sending(installation: Installation, messages: list[Sent], seconds: float) -> Generator[None]:
    """Send beside whatever the block does."""
    failed: list[BaseException] = []

    def send() -> None:
        try:
            installation.send(messages, per_second=len(messages) / seconds)
        except BaseException as error:  # noqa: BLE001 - told below
            failed.append(error)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        thread.join(180)
    assert not thread.is_alive()
    assert not failed, failed


def merged(into: Stream, more: Stream) -> None:
    into.histories.update(more.histories)
    into.spent.update(more.spent)
    into.payments.update(more.payments)


@pytest.fixture(scope="module")
def sent() -> Stream:
    """What has been sent to the installation so far."""
    return Stream()


def test_killed_and_held_up_workers_lose_double_and_reorder_nothing(
    installation: Installation, workers: list[Process], sent: Stream
) -> None:
    dice = random.Random(5)
    more = stream(1, accounts=170, payments=1_300)
    merged(sent, more)
    kills = holds = 0
    with sending(installation, more.messages, 50):
        for number in range(11):
            time.sleep(dice.uniform(2.5, 4))
            pair = [workers[0], workers[1]] if number % 2 else [workers[2], workers[3]]
            held = workers[3 if number % 2 else 0]
            if number in {3, 8}:
                held.hold()
                holds += 1
            for worker in pair:
                worker.kill()
                kills += 1
                worker.start()
            if number in {3, 8}:
                time.sleep(7.5)  # longer than the group's session
                held.release()
    seconds = installation.drained(120, without=idle(installation))
    counted = count(installation, sent)
    again, breaks, gaps = published(installation, sent)
    print(
        f"\nkilled {kills}, held up {holds}; sent {len(more.messages)} ({more.duplicates} of them twice); "
        f"lost {counted.lost}, doubled {counted.doubled}, out of order {counted.disordered}; in the topics: published "
        f"again {again}, order breaks {breaks}, gaps {gaps}; drained {seconds:.1f} s after the last"
    )
    assert kills >= 20
    assert counted == Count(0, 0, 0)
    assert (breaks, gaps) == (0, 0)


@pytest.mark.parametrize("server", ["kafka", "postgres"])
def test_a_killed_server_costs_time_only(
    installation: Installation, workers: list[Process], sent: Stream, server: str
) -> None:
    more = stream(2 if server == "kafka" else 3, accounts=40, payments=300)
    merged(sent, more)
    with sending(installation, more.messages, 10):
        time.sleep(3)
        installation.kill_server(server)
        began = time.monotonic()
    seconds = installation.drained(RECOVERED_S, without=idle(installation))
    recovered = time.monotonic() - began
    assert all(worker.alive for worker in workers), "workers wait for their servers"
    counted = count(installation, sent)
    again, breaks, gaps = published(installation, sent)
    print(
        f"\n{server} killed; sent {len(more.messages)}; lost {counted.lost}, doubled {counted.doubled}, out of order "
        f"{counted.disordered}; published again {again}, order breaks {breaks}, gaps {gaps}; all done {recovered:.1f} s "
        f"after the kill, {seconds:.1f} s after the last was sent"
    )
    assert counted == Count(0, 0, 0)
    assert (breaks, gaps) == (0, 0)


def test_asked_to_stop_workers_finish_what_they_have_and_say_that_it_is_well(workers: list[Process]) -> None:
    assert [worker.terminate() for worker in workers] == [0] * 4
