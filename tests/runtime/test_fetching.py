"""Fetches say what has changed, and everything after whatever went wrong between a consumer and a broker."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import pytest
from aiokafka.errors import KafkaConnectionError, KafkaError
from aiokafka.protocol.fetch import FetchRequest, FetchRequest_v11
from aiokafka.protocol.metadata import MetadataRequest

from infra.kafka.reader import Reader
from infra.kafka.sessions import LAST, Session, Sessions
from infra.kafka.writer import Sendable, Writer
from tests.shop.bench import Bench

NODE = 1
NOTHING_OF_THE_KIND = 70


@dataclass
class Said:
    """What one fetch told the broker."""

    session: int
    epoch: int
    read: dict[str, list[tuple[int, int]]]
    """Topic -> partitions with their offsets."""
    left: list[tuple[str, list[int]]]


@dataclass
class Answer:
    """What the broker answers."""

    session_id: int = 7
    error_code: int = 0


@dataclass
class Broker:
    """Remembers what it was told, and answers as it is told to."""

    answers: list[Answer | BaseException] = field(default_factory=list)
    said: list[Said] = field(default_factory=list)

    async def send(self, node: int, request: Any, **_how: Any) -> Any:
        if isinstance(request, MetadataRequest):
            return "metadata"
        assert node == NODE
        made = request.prepare({1: (4, 17)})
        FetchRequest_v11.decode(made.encode())
        read = {topic: [(it[0], it[2]) for it in partitions] for topic, partitions in made.topics}
        self.said.append(Said(made.session_id, made.session_epoch, read, made.forgotten_topics_data))
        answer = self.answers.pop(0) if self.answers else Answer()
        if isinstance(answer, BaseException):
            raise answer
        return answer


def fetch(**offsets: list[int]) -> FetchRequest:
    """Read each topic's partitions from these offsets."""
    topics = [(topic, [(number, it, 100) for number, it in enumerate(at)]) for topic, at in offsets.items()]
    return FetchRequest(500, 1, 1_000, 1, topics)


@pytest.fixture
def broker() -> Broker:
    return Broker()


@pytest.fixture
def sessions(broker: Broker) -> Sessions:
    return Sessions(broker.send)


async def test_only_what_has_changed_is_said(broker: Broker, sessions: Sessions) -> None:
    await sessions.send(NODE, fetch(a=[1, 5], b=[9]))
    await sessions.send(NODE, fetch(a=[1, 6], b=[9]))
    await sessions.send(NODE, fetch(a=[1, 6]))
    await sessions.send(NODE, fetch(a=[1, 6], b=[9]))

    assert broker.said == [
        Said(0, 0, {"a": [(0, 1), (1, 5)], "b": [(0, 9)]}, []),
        Said(7, 1, {"a": [(1, 6)]}, []),
        Said(7, 2, {}, [("b", [0])]),
        Said(7, 3, {"b": [(0, 9)]}, []),
    ]


@pytest.mark.parametrize(
    "wrong",
    [Answer(0, NOTHING_OF_THE_KIND), KafkaConnectionError("away"), asyncio.CancelledError()],
    ids=["forgotten", "away", "cancelled"],
)
async def test_whatever_went_wrong_everything_is_said_again(
    broker: Broker, sessions: Sessions, wrong: Answer | BaseException
) -> None:
    broker.answers = [Answer(), wrong]
    await sessions.send(NODE, fetch(a=[1, 5]))
    with pytest.raises((KafkaError, asyncio.CancelledError)):
        await sessions.send(NODE, fetch(a=[2, 5]))
    await sessions.send(NODE, fetch(a=[2, 5]))
    await sessions.send(NODE, fetch(a=[2, 6]))

    # The number is that of the session that the broker may drop.
    assert broker.said[2:] == [Said(7, 0, {"a": [(0, 2), (1, 5)]}, []), Said(7, 1, {"a": [(1, 6)]}, [])]


async def test_a_broker_without_room_for_a_session_is_told_everything(
    broker: Broker, sessions: Sessions
) -> None:
    broker.answers = [Answer(0), Answer(0)]
    await sessions.send(NODE, fetch(a=[1]))
    await sessions.send(NODE, fetch(a=[1]))
    assert broker.said == [Said(0, 0, {"a": [(0, 1)]}, [])] * 2


async def test_the_count_begins_anew_at_one(broker: Broker, sessions: Sessions) -> None:
    sessions._sessions[NODE] = Session(7, LAST, {})
    await sessions.send(NODE, fetch(a=[1]))
    await sessions.send(NODE, fetch(a=[1]))
    assert [it.epoch for it in broker.said] == [LAST, 1]


async def test_what_is_no_fetch_goes_as_it_is(sessions: Sessions) -> None:
    assert await sessions.send(NODE, MetadataRequest([])) == "metadata"


async def test_a_reader_goes_on_when_the_broker_has_forgotten_and_seeks_in_a_session(bench: Bench) -> None:
    topic = f"t{uuid4().hex}.events"
    await bench.engine.admin.ensure_topics([topic])
    writer = Writer(bench.engine.settings.kafka, "test")
    await writer.connect()

    async def rebalanced() -> None: ...

    reader = Reader(bench.engine.settings.kafka, f"test.{topic}", [topic], rebalanced)
    client: Any = reader._consumer._client
    sessions: Sessions = client.send.__self__
    await reader.start(asyncio.Event())
    try:

        async def written_and_read(number: int) -> None:
            value = b"%d" % number
            (at,) = await writer.send([Sendable(topic, b"key", value, [])], 10)
            assert at is not None
            assert await read() == [value]

        async def read() -> list[bytes | None]:
            async with asyncio.timeout(30):
                while not (found := await reader.fetch(200, 10)):
                    pass
            return [record.value for records in found.values() for record in records]

        for number in range(5):
            await written_and_read(number)
        (node,) = sessions._sessions
        assert sessions._sessions[node].fetches > 1

        # Another number: the broker knows of no such session.
        sessions._sessions[node] = sessions._sessions[node]._replace(number=1)
        await written_and_read(5)

        (place,) = {place for place in reader.assignment() if (await reader.bounds([place]))[1][place]}
        reader.seek(place, 4)
        assert await read() == [b"4", b"5"]
        await written_and_read(6)
    finally:
        await reader.stop()
        await writer.close()
