"""How parts of a Kafka consumer's client die: each of an error that nobody has thought of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

WHY: Final = "nobody has thought of it"


async def _fails(*_: object) -> Any:
    raise AssertionError(WHY)


def _fails_at_once(*_: object) -> Any:
    raise AssertionError(WHY)


def _metadata(consumer: Any) -> None:
    consumer._client._metadata_update = _fails
    consumer._client.force_metadata_update()


def _fetches(consumer: Any) -> None:
    consumer._fetcher._get_actions_per_node = _fails_at_once


def _coordination(consumer: Any) -> None:
    consumer._coordinator.ensure_coordinator_known = _fails
    consumer._coordinator.request_rejoin()


def _heartbeats(consumer: Any) -> None:
    consumer._coordinator._do_heartbeat = _fails


DEATHS: Final[dict[str, Callable[[Any], None]]] = {
    "metadata": _metadata,
    "fetches": _fetches,
    "coordination": _coordination,
    "heartbeats": _heartbeats,
}
"""By the name of the task that dies of it, soon."""
