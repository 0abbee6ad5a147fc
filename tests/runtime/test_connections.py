"""Connections are reset at the worst moment, and a client's tasks die: its reader reads on."""

from __future__ import annotations

import asyncio
import ctypes
import socket
import struct
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch
from uuid import uuid4

import pytest
import uvloop
from aiokafka import conn
from aiokafka.client import ConnectionGroup
from aiokafka.errors import KafkaConnectionError
from aiokafka.protocol.metadata import MetadataRequest

from infra.kafka import connections
from infra.kafka.admin import Admin
from infra.kafka.reader import Reader
from infra.kafka.writer import Sendable, Writer
from infra.settings import Settings
from tests.dying import DEATHS

LIBC = ctypes.CDLL(None, use_errno=True)
TURNS = range(8)
"""How many turns of the loop one connection of a client is reset before the other."""


class Log:
    """A topic of its own, somebody who writes to it, and a reader that has read all of it."""

    def __init__(self, bootstrap: str) -> None:
        """Prepare."""
        self._bootstrap = bootstrap
        self._topic = f"t{uuid4().hex}.events"
        self._writer = Writer(bootstrap, "test")
        self._number = 0
        self.reader = Reader(bootstrap, f"test.{self._topic}", [self._topic], self._rebalanced)

    async def _rebalanced(self) -> None: ...

    async def open(self) -> None:
        await Admin(self._bootstrap).ensure_topics([self._topic])
        await self.reader.start(asyncio.Event())
        assert await self.read_on(30)

    async def close(self) -> None:
        await self.reader.stop()
        await self._writer.close()

    async def read_on(self, within: float) -> bool:
        """Write a record; say whether it is read in time."""
        self._number += 1
        value = b"%d" % self._number
        assert await self._writer.connect()
        (at,) = await self._writer.send([Sendable(self._topic, b"key", value, [])], 10)
        assert at is not None
        try:
            async with asyncio.timeout(within):
                while True:
                    found = await self.reader.fetch(200, 10)
                    if value in [record.value for records in found.values() for record in records]:
                        return True
        except TimeoutError:
            return False

    @property
    def consumer(self) -> Any:
        return self.reader._consumer

    def connections(self) -> dict[ConnectionGroup, Any]:
        """Give what is open."""
        return {group: it for (_, group), it in self.consumer._client._conns.items() if it.connected()}


def reset(connection: Any) -> None:
    """Have the system break a connection: both its ends learn that it was reset."""
    descriptor = connection._writer.get_extra_info("socket").fileno()
    nowhere = struct.pack("H14x", socket.AF_UNSPEC)
    assert LIBC.connect(descriptor, nowhere, len(nowhere)) == 0, ctypes.get_errno()


async def beaten(log: Log, turns: int) -> None:
    """Reset the connection to the coordinator, and so many turns of the loop later the other one."""
    async with asyncio.timeout(30):
        while len(open_ := log.connections()) < len(ConnectionGroup):
            await asyncio.sleep(0.05)
    reset(open_[ConnectionGroup.COORDINATION])
    for _ in range(turns):
        await asyncio.sleep(0)
    reset(open_[ConnectionGroup.DEFAULT])
    await asyncio.sleep(0.5)


def on_the_products_loop(settings: Settings, given: Callable[[Log], Coroutine[Any, Any, None]]) -> None:
    """Run it on the loop that workers and servers run on: only that one refuses to write."""

    async def run() -> None:
        log = Log(settings.kafka)
        await log.open()
        try:
            await given(log)
        finally:
            await log.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())


@contextmanager
def careless() -> Generator[None]:
    """No care for broken connections: the client's own."""
    with patch.object(conn, "AIOKafkaConnection", connections.Connection.__base__):
        yield


def test_connections_that_are_reset_one_soon_after_the_other_cost_no_client(platform: Settings) -> None:
    async def given(log: Log) -> None:
        for turns in TURNS:
            await beaten(log, turns)
            assert connections.lost(log.consumer) is None, turns
            assert await log.read_on(30)

    on_the_products_loop(platform, given)


async def write_in_between(bootstrap: str) -> None:
    """Write on a connection that the loop has closed, before who reads from it has heard of that."""
    host, port = bootstrap.split(":")
    connection: Any = await conn.create_conn(host, int(port))
    loop = asyncio.get_running_loop()
    written = loop.create_future()
    protocol = connection._writer.transport.get_protocol()
    hears = protocol.connection_lost

    def write() -> None:
        try:
            connection.send(MetadataRequest()).close()
        except (KafkaConnectionError, RuntimeError) as error:
            written.set_exception(error)
        else:
            written.set_result(None)

    def lost(error: Exception | None) -> None:
        # Its turn comes before that of the task that reads.
        loop.call_soon(write)
        hears(error)

    protocol.connection_lost = lost
    connection._writer.transport.abort()
    await written


def test_who_writes_on_a_connection_that_the_loop_has_closed_gets_an_error_that_clients_expect(
    platform: Settings,
) -> None:
    with (
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
        pytest.raises(KafkaConnectionError),
    ):
        runner.run(write_in_between(platform.kafka))


def test_the_mutant_with_the_clients_own_connections_gets_one_that_they_do_not(platform: Settings) -> None:
    with (
        careless(),
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
        pytest.raises(RuntimeError, match="handler is closed"),
    ):
        runner.run(write_in_between(platform.kafka))


def alive(_: object) -> None:
    """Say that nothing has died."""


@pytest.mark.parametrize("task", DEATHS)
def test_a_client_of_which_a_task_has_died_is_replaced(platform: Settings, task: str) -> None:
    async def given(log: Log) -> None:
        died = log.consumer
        DEATHS[task](died)
        async with asyncio.timeout(30):
            while (why := connections.lost(died)) is None:
                await asyncio.sleep(0.05)
        assert f"for {task} " in why
        assert await log.read_on(30)
        assert log.consumer is not died
        assert log.reader.failing is None
        assert not [it for it in died._client._conns.values() if it.connected()], "nothing of it goes on"

    on_the_products_loop(platform, given)


async def waits_for_an_assignment(log: Log) -> bool:
    """Whether a fetch still waits for its assignment after its client's metadata task has died."""
    log.consumer._subscription.begin_reassignment()
    fetching = asyncio.ensure_future(log.reader.fetch(200, 10))
    await asyncio.sleep(0)
    DEATHS["metadata"](log.consumer)
    done, _ = await asyncio.wait({fetching}, timeout=5)
    return not done


def test_a_fetch_that_waits_for_an_assignment_ends_when_the_client_dies(platform: Settings) -> None:
    async def given(log: Log) -> None:
        assert not await waits_for_an_assignment(log)
        assert await log.read_on(30)

    on_the_products_loop(platform, given)


def test_the_mutant_that_tells_nobody_has_it_wait_for_ever(platform: Settings) -> None:
    async def given(log: Log) -> None:
        assert await waits_for_an_assignment(log)

    with patch.object(connections, "wake_when_lost", alive):
        on_the_products_loop(platform, given)


def test_the_mutant_that_does_not_look_is_silent_for_ever(platform: Settings) -> None:
    async def given(log: Log) -> None:
        DEATHS["fetches"](log.consumer)
        with patch.object(connections, "lost", alive):
            assert not await log.read_on(5)
            assert log.reader.failing is None
        assert await log.read_on(30)

    on_the_products_loop(platform, given)
