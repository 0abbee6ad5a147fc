"""How aiokafka's clients meet a broken connection, and how they are let go: once imported, for every client of the process.

uvloop raises a `RuntimeError` where somebody writes on a connection that it has closed already. The client expects only errors
of its own and of the system, and learns of the end some turns of the loop later: whichever of its tasks writes until then dies.
Without its metadata task a client waits for ever, without its fetch task it reads nothing and says nothing.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

import structlog
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, conn
from aiokafka.conn import AIOKafkaConnection, CloseReason
from aiokafka.errors import KafkaError

log = structlog.get_logger(__name__)

LASTING: Final = frozenset({"metadata", "fetches", "coordination"})
"""The tasks that a consumer has until it is stopped; the others end and begin with a membership, and have died only of an error."""


class Connection(AIOKafkaConnection):  # type: ignore[misc]
    """A connection that is broken for whoever writes as soon as it is for the loop."""

    def send(self, request: Any, expect_response: bool = True) -> Any:  # noqa: FBT001, FBT002 - the client's signature
        """Send a request; raises `KafkaConnectionError`, which every client expects, where the connection is broken."""
        if self._writer is not None and self._writer.is_closing():
            self.close(reason=CloseReason.CONNECTION_BROKEN)
        return super().send(request, expect_response)


# A client can be given none: it makes them by this name.
conn.AIOKafkaConnection = Connection


def lost(consumer: AIOKafkaConsumer) -> str | None:
    """Say which of a consumer's background tasks has died, and of what; `None` while it can go on."""
    for name, task in _tasks(consumer).items():
        if task.done():
            error = None if task.cancelled() else task.exception()
            if error is not None or name in LASTING:
                # The client's own error says no more than that there was one.
                return f"its task for {name} has ended: {(error and error.__cause__) or error!r}"
    return None


def wake_when_lost(consumer: AIOKafkaConsumer) -> None:
    """Have whoever waits for an assignment told when a started consumer's metadata task dies: coordination waits for that one."""

    def tell(ended: asyncio.Task[None]) -> None:
        if not ended.cancelled() and (error := ended.exception()) is not None:
            consumer._subscription.abort_waiters(KafkaError(f"no metadata any more: {error!r}"))  # noqa: SLF001 - nothing is public

    _tasks(consumer)["metadata"].add_done_callback(tell)


async def let_go(owner: AIOKafkaConsumer | AIOKafkaProducer, within_s: float) -> None:
    """Stop a consumer or producer; one that cannot within so many seconds, as its broker is away or it has died, is cut off.

    What goes on in it would connect again, and an open connection keeps the loop from closing until the broker closes it.
    """
    stopping = asyncio.ensure_future(owner.stop())
    done, _ = await asyncio.wait({stopping}, timeout=within_s)
    error: object = TimeoutError(f"not within {within_s:g} s")
    if done:
        (error,) = await asyncio.gather(stopping, return_exceptions=True)
    if error is None:
        return
    log.warning("client cut off", client=_client(owner)._client_id, error=repr(error))  # noqa: SLF001 - nothing is public
    for task in (stopping, *_tasks(owner).values()):
        task.cancel()
    for connection in _client(owner)._conns.values():  # noqa: SLF001 - nothing is public
        connection.close(reason=CloseReason.SHUTDOWN)


def _client(owner: Any) -> Any:
    return owner.client if isinstance(owner, AIOKafkaProducer) else owner._client  # noqa: SLF001 - nothing is public


def _tasks(owner: Any) -> dict[str, asyncio.Task[Any]]:
    """Give the background tasks that there are by now."""
    tasks = {"metadata": _client(owner)._sync_task}  # noqa: SLF001 - nothing is public
    if isinstance(owner, AIOKafkaProducer):
        tasks["sending"] = owner._sender.sender_task  # noqa: SLF001 - nothing is public
    else:
        # One that has not started, or is in no group, has not all of them.
        for name, part, attribute in (
            ("fetches", owner._fetcher, "_fetch_task"),  # noqa: SLF001 - nothing is public
            ("coordination", owner._coordinator, "_coordination_task"),  # noqa: SLF001 - nothing is public
            ("heartbeats", owner._coordinator, "_heartbeat_task"),  # noqa: SLF001 - nothing is public
            ("committed offsets", owner._coordinator, "_commit_refresh_task"),  # noqa: SLF001 - nothing is public
        ):
            tasks[name] = getattr(part, attribute, None)
    return {name: task for name, task in tasks.items() if task is not None}
