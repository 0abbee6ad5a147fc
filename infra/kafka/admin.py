"""What the broker says of topics and offsets. Blocking calls of a well-kept client, run beside the event loop.

aiokafka, which moves the records, speaks no protocol version that carries topic ids; this client does.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from confluent_kafka import KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec  # type: ignore[attr-defined]

from infra.errors import TriplaneError
from infra.kafka.record import Place

DAY_MS: Final = 86_400_000
RETENTION_MS: Final = {"inbound": 7 * DAY_MS, "commands": 7 * DAY_MS, "events": -1}
PARTITIONS: Final = 12
TIMEOUT_S: Final = 10.0
_PASSING: Final = frozenset(
    {
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError.REQUEST_TIMED_OUT,
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError.UNKNOWN_LEADER_EPOCH,
        KafkaError.NETWORK_EXCEPTION,
        KafkaError._TRANSPORT,  # noqa: SLF001 - the client names its own errors so
    }
)


class BrokerUnavailable(TriplaneError):
    """No broker answered in time."""


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic as the broker knows it: its id changes when it is deleted and made again."""

    name: str
    id: UUID
    partitions: int


class Admin:
    """Topics and offsets of one cluster."""

    def __init__(self, bootstrap: str, timeout_s: float = TIMEOUT_S) -> None:
        """Connect on first use to `bootstrap` (`host:port[,host:port]`); give up on an answer after `timeout_s`."""
        self._timeout_s = timeout_s
        self._client = AdminClient(
            {
                "bootstrap.servers": bootstrap,
                "socket.timeout.ms": 10_000,
                "log_level": 0,
                "client.id": "triplane-admin",
            }
        )

    async def ensure_topics(self, names: Iterable[str]) -> None:
        """Make the topics that are missing; an existing one is never changed (its partition count is frozen)."""
        wanted = sorted(names)
        await self._guarded(self._ensure, wanted)
        give_up = time.monotonic() + TIMEOUT_S
        # A topic that has just been made is not described at once.
        while missing := set(wanted) - (await self.topics(wanted)).keys():
            if time.monotonic() > give_up:
                raise BrokerUnavailable(f"the broker does not show the topic {min(missing)} that it has made")
            await asyncio.sleep(0.1)

    async def cluster(self) -> str:
        """Give the cluster's id."""
        found: str = await self._guarded(lambda: self._client.list_topics(timeout=self._timeout_s).cluster_id)
        return found

    async def topics(self, names: Collection[str]) -> dict[str, Topic]:
        """Describe topics; those that do not exist are left out."""
        found: dict[str, Topic] = await self._guarded(self._topics, sorted(names))
        return found

    async def offsets(self, topics: Collection[Topic], *, end: bool) -> dict[Place, int]:
        """Give the first offset of every partition, or with `end` the one that the next record will get."""
        found: dict[Place, int] = await self._guarded(self._offsets, list(topics), end)
        return found

    async def offsets_at(self, topics: Collection[Topic], time_ms: int) -> dict[Place, int]:
        """Give each partition's first offset appended at or after `time_ms`; the end where there is none."""
        found: dict[Place, int] = await self._guarded(self._offsets, list(topics), time_ms)
        return found

    def _ensure(self, names: list[str]) -> None:
        known = self._client.list_topics(timeout=self._timeout_s).topics
        brokers = len(self._client.list_topics(timeout=self._timeout_s).brokers)
        missing = [
            NewTopic(
                name,
                num_partitions=PARTITIONS,
                replication_factor=min(3, brokers),
                config={
                    "message.timestamp.type": "LogAppendTime",
                    "retention.ms": str(RETENTION_MS[name.rpartition(".")[2]]),
                    "min.insync.replicas": str(2 if brokers >= 3 else 1),
                },
            )
            for name in names
            if name not in known
        ]
        if not missing:
            return
        for future in self._client.create_topics(missing, operation_timeout=self._timeout_s).values():
            try:
                future.result(self._timeout_s)
            except KafkaException as failed:
                if failed.args[0].name() != "TOPIC_ALREADY_EXISTS":
                    raise

    def _topics(self, names: list[str]) -> dict[str, Topic]:
        if not names:
            return {}
        found: dict[str, Topic] = {}
        for name, future in self._client.describe_topics(TopicCollection(names)).items():
            try:
                described: Any = future.result(self._timeout_s)
            except KafkaException as failed:
                if failed.args[0].name() == "UNKNOWN_TOPIC_OR_PART":
                    continue
                raise
            low, high = (
                described.topic_id.get_least_significant_bits(),
                described.topic_id.get_most_significant_bits(),
            )
            topic_id = UUID(int=((high & (2**64 - 1)) << 64) | (low & (2**64 - 1)))
            found[name] = Topic(name, topic_id, len(described.partitions))
        return found

    def _offsets(self, topics: list[Topic], which: bool | int) -> dict[Place, int]:  # noqa: FBT001 - internal
        def ask(spec: Any, places: list[Place]) -> dict[Place, int]:
            asked = {TopicPartition(topic, partition): spec for topic, partition in places}
            answers = self._client.list_offsets(asked, request_timeout=self._timeout_s) if asked else {}
            return {
                (place.topic, place.partition): future.result(self._timeout_s).offset
                for place, future in answers.items()
            }

        places = [(topic.name, partition) for topic in topics for partition in range(topic.partitions)]
        spec: Any = OffsetSpec
        if which is True or which is False:
            return ask(spec.latest() if which else spec.earliest(), places)
        found = ask(spec.for_timestamp(which), places)
        beyond = [place for place, offset in found.items() if offset < 0]
        return found | ask(spec.latest(), beyond)

    async def _guarded(self, call: Any, *arguments: Any) -> Any:
        """Run a blocking call beside the loop; what passes by itself (a leader just elected) is tried again."""
        give_up = time.monotonic() + self._timeout_s
        while True:
            try:
                return await asyncio.to_thread(call, *arguments)
            except KafkaException as failed:
                error = failed.args[0]
                if time.monotonic() > give_up or error.code() not in _PASSING:
                    raise BrokerUnavailable(f"the broker cannot answer now: {error.str()}") from failed
            except TimeoutError as late:
                raise BrokerUnavailable(f"the broker did not answer within {self._timeout_s:g} s") from late
            await asyncio.sleep(0.2)
