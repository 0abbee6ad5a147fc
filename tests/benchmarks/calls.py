"""The benchmark's own outside effect: for each fact, one call to the outside, whose outcome is a fact."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from typing import Final, Protocol
from uuid import UUID

from aiokafka.partitioner import murmur2

from events import Event, Key, type_of
from handlers import Aggregate, OutcomeUnknown, Worker
from infra.kafka.admin import PARTITIONS
from infra.runtime.catalog import Catalog, discover, message_types
from infra.runtime.catalog.worker_wiring import wire_effects, wire_worker
from infra.runtime.messages.envelope import Envelope
from infra.runtime.messages.ids import source_of
from tests.benchmarks.load import Outgoing
from tests.benchmarks.payments import TENANTS

CONTEXT: Final = "benchmarks"
TOPIC: Final = f"{CONTEXT}.events"
CONSUMER: Final = f"{CONTEXT}.call"
KEYS: Final = 1_000
AT: Final = datetime(2026, 5, 4, 12, tzinfo=UTC)

worker = Worker(CONTEXT)


class CallAsked(Event):
    """The outside is to be called."""

    caller_id: Key[UUID]
    number: int
    """Which call of the caller it is, from 0."""


class CallMade(Event):
    """The outside was called."""

    caller_id: Key[UUID]
    number: int


class Caller(Aggregate):
    """Who calls."""

    caller_id: Key[UUID]
    made: int = 0


class Outside(Protocol):
    """Takes calls."""

    async def call(self, key: object, number: int) -> None:
        """Take one."""
        ...


@worker.evolves
def asked(caller: Caller, _event: CallAsked) -> Caller:
    """Wait."""
    return caller


@worker.evolves
def made(caller: Caller, _event: CallMade) -> Caller:
    """Have called once more."""
    return caller.model_copy(update={"made": caller.made + 1})


@worker.on
async def call(event: CallAsked, outside: Outside) -> CallMade:
    """Call."""
    await outside.call(event.caller_id, event.number)
    return CallMade(caller_id=event.caller_id, number=event.number)


@worker.finds(call)
async def found(event: CallAsked) -> CallMade | None:
    """Nothing is killed in a run, so nothing is ever in doubt."""
    raise OutcomeUnknown(f"{event.caller_id} {event.number}")


@cache
def catalogue() -> Catalog:
    """Wire the platform with the benchmark's effect."""
    real = discover()
    contracts = {
        **real.contracts,
        **{
            type_of(it): message_types._contract(type_of(it), {it.version: it})
            for it in (CallAsked, CallMade)
        },
    }
    decider = wire_worker(worker, contracts)
    effects = {it.name: it for it in wire_effects(worker, decider, contracts)}
    return replace(
        real,
        contracts=contracts,
        workers={**real.workers, decider.name: decider},
        effects={**real.effects, **effects},
        contexts=tuple(sorted({*real.contexts, CONTEXT})),
    )


def callers() -> list[UUID]:
    """Give keys that all lie in the first partition."""
    drawn = random.Random(17)
    found: list[UUID] = []
    while len(found) < KEYS:
        key = UUID(int=drawn.getrandbits(128), version=4)
        if (murmur2(str(key).encode()) & 0x7FFFFFFF) % PARTITIONS == 0:
            found.append(key)
    return found


def calls(count: int) -> Iterator[tuple[UUID, int]]:
    """Give the first `count`: every caller's first, then every caller's second, and so on."""
    known = callers()
    for number in range(count):
        yield known[number % KEYS], number // KEYS


def records(count: int) -> Iterator[Outgoing]:
    """Write the facts as their context's relay does."""
    drawn = random.Random(19)

    def fresh() -> str:
        return str(UUID(int=drawn.getrandbits(128), version=4))

    for place, (caller, number) in enumerate(calls(count)):
        event = CallAsked(caller_id=caller, number=number)
        envelope = Envelope(
            id=fresh(),
            type=f"{CONTEXT}.CallAsked",
            source=source_of(CONTEXT),
            tenant=TENANTS[place % KEYS % len(TENANTS)],
            version=1,
            time=AT,
            correlation=fresh(),
            causation=fresh(),
            sequence=number + 1,
        )
        yield str(caller), event.model_dump_json().encode(), envelope.headers()
