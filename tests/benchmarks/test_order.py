"""The check of the lanes does not believe an outside that was called otherwise than in order."""

from __future__ import annotations

from typing import Any, cast

import pytest

from tests.benchmarks.calls import KEYS, calls
from tests.benchmarks.cases.lanes import Outside
from tests.benchmarks.harness import WrongAnswer
from tests.benchmarks.outside import Called
from tests.benchmarks.site import Site

COUNT = 2 * KEYS


def sound() -> list[Called]:
    """Every key's second call comes after its first has ended."""
    return [(str(key), number, float(number), number + 0.5) for key, number in calls(COUNT)]


def inverted(log: list[Called]) -> None:
    """The second call of a key before its first."""
    (key, number, *first), (_, other, *second) = log[0], log[KEYS]
    log[0], log[KEYS] = cast("Any", ((key, number, *second), (key, other, *first)))


def overlapping(log: list[Called]) -> None:
    """The second call of a key while its first goes on."""
    key, number, began, _ = log[0]
    log[0] = (key, number, began, 1.25)


def twice(log: list[Called]) -> None:
    """A call that is made again, instead of another."""
    log[-1] = log[0]


def lost(log: list[Called]) -> None:
    """A call that is not made."""
    log.pop()


def check(log: list[Called]) -> None:
    outside = Outside(cast("Site", None))
    outside.called = log
    outside.check("ours", COUNT)


def test_calls_in_order_are_believed() -> None:
    check(sound())


@pytest.mark.parametrize("broken", [inverted, overlapping, twice, lost])
def test_calls_otherwise_are_not(broken: Any) -> None:
    log = sound()
    broken(log)
    with pytest.raises(WrongAnswer):
        check(log)
