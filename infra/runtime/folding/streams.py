"""The aggregates of one context under their locks: read set-wise, folded in memory, written set-wise.

Locks are taken claims first, then aggregates, each sorted. An absent aggregate cannot be locked: it is inserted, and whoever
comes second reads it anew. The events' versions are taken under the aggregate's lock, so they are its sequence.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

from asyncpg import UniqueViolationError

from events import Erased, Message
from handlers import Aggregate
from infra.errors import TriplaneError
from infra.postgres.database import Connection
from infra.postgres.writes import Table, Writes, arrays
from infra.runtime.catalog import Contract, DeciderWiring, StateModel
from infra.runtime.consuming.batch import outrun
from infra.runtime.messages.codec import Codec, Incoming, shape_of
from infra.runtime.messages.envelope import Envelope
from infra.runtime.messages.ids import derived_id, source_of
from infra.runtime.publishing import outbox
from infra.runtime.publishing.outbox import Outgoing

StreamKey = tuple[str, str, str]
"""Aggregate kind, tenant, key."""
Digest = bytes

ABSENT, UNSEEN = 0, -1
MAX_OUTPUTS: Final = 32
"""So many outputs of a replayed message are looked for. One beyond is refused by its id, and the message parked."""

_UPDATE: Final = """UPDATE aggregates a SET version = n.version, shape = $2, state = n.state::json
    FROM unnest($3::text[], $4::text[], $5::bigint[], $6::text[]) AS n (tenant, key, version, state)
    WHERE a.kind = $1 AND (a.tenant, a.key) = (n.tenant, n.key)"""
AGGREGATES: Final = Table(
    "aggregates",
    (
        ("kind", "text"),
        ("tenant", "text"),
        ("key", "text"),
        ("version", "bigint"),
        ("shape", "bigint"),
        ("state", "json"),
    ),
)
EVENTS: Final = Table(
    "events",
    (
        ("id", "uuid"),
        ("kind", "text"),
        ("tenant", "text"),
        ("key", "text"),
        ("version", "bigint"),
        ("type", "text"),
        ("schema_version", "int"),
        ("payload", "json"),
        ("source", "text"),
        ("correlation", "text"),
        ("causation", "text"),
        ("traceparent", "text"),
        ("time", "timestamptz"),
    ),
)


class Undeclared(TriplaneError, ValueError):
    """A decision touched state that its handler does not ask for, so it was not locked."""


@dataclass(slots=True)
class Stream:
    """One aggregate with its version; `stored` is the version that the database has: `ABSENT`, or `UNSEEN` if nobody looked."""

    stored: int
    version: int
    state: Aggregate


class Output(NamedTuple):
    """One message about to be published; a fact has a stream, to which it is appended as its envelope's sequence."""

    contract: Contract
    message: Message
    key: str
    envelope: Envelope
    id: UUID
    stream: StreamKey | None


@dataclass(slots=True)
class Attempt:
    """What one message would change. Dropped when its fold raises, merged when it succeeds."""

    streams: dict[StreamKey, Stream] = field(default_factory=dict)
    claims: dict[Digest, tuple[str, str, str, str | None]] = field(default_factory=dict)
    outputs: list[Output] = field(default_factory=list)
    emitted: int = 0
    """How many messages were published, those that exist already included: what their ids are derived from."""


class Streams:
    """The locked aggregates of one batch."""

    def __init__(self, wiring: DeciderWiring, codec: Codec) -> None:
        """Hold aggregates of the context of `wiring`."""
        self._wiring = wiring
        self._codec = codec
        self._models = {state.name: state for state in wiring.aggregates.values()}
        self._streams: dict[StreamKey, Stream] = {}
        self._claims: dict[Digest, str | None] = {}
        self._loaded_claims: set[Digest] = set()
        self._changed_claims: dict[Digest, tuple[str, str, str, str | None]] = {}
        self._outputs: list[Output] = []
        self._source = source_of(wiring.name)
        self._known: set[UUID] = set()

    # -- load -------------------------------------------------------------------------------------------------------

    async def lock_claims(
        self, tx: Connection, wanted: Collection[tuple[Digest, str, str, str]]
    ) -> set[StreamKey]:
        """Lock claimed values, each `(digest, kind, claim, tenant)`; give the streams that hold any."""
        by_digest = {digest: (kind, claim, tenant) for digest, kind, claim, tenant in wanted}
        missing = sorted(by_digest.keys() - self._loaded_claims)
        while missing:
            # Mostly it is claimed for the first time: what is made is locked.
            rows = await tx.fetch(
                """INSERT INTO claims (digest, kind, claim, tenant)
                   SELECT * FROM unnest($1::bytea[], $2::text[], $3::text[], $4::text[])
                   ON CONFLICT DO NOTHING RETURNING digest, holder""",
                *arrays([(digest, *by_digest[digest]) for digest in missing]),
            )
            if len(rows) < len(missing):
                rows += await tx.fetch(
                    "SELECT digest, holder FROM claims WHERE digest = ANY($1::bytea[]) ORDER BY digest FOR UPDATE",
                    sorted(set(missing).difference(row["digest"] for row in rows)),
                )
            self._claims |= {row["digest"]: row["holder"] for row in rows}
            self._loaded_claims |= {row["digest"] for row in rows}
            # A claim released while we waited for its row is gone: make the skeleton again.
            missing = sorted(by_digest.keys() - self._loaded_claims)
        return {
            (by_digest[digest][0], by_digest[digest][2], holder)
            for digest in by_digest
            if (holder := self._claims[digest]) is not None
        }

    async def lock(self, tx: Connection, keys: Collection[StreamKey]) -> None:
        """Lock and load aggregates; absent ones begin from their key alone."""
        missing = set(keys) - self._streams.keys()
        # Kind by kind and sorted in each: one order for all.
        for kind in sorted({kind for kind, _, _ in missing}):
            rows = await tx.fetch(
                """SELECT a.kind, a.tenant, a.key, a.version, a.shape, a.state FROM aggregates a
                   JOIN unnest($2::text[], $3::text[]) AS wanted (tenant, key) USING (tenant, key)
                   WHERE a.kind = $1 ORDER BY a.tenant COLLATE "C", a.key COLLATE "C" FOR UPDATE OF a""",
                kind,
                *arrays(sorted((tenant, key) for of, tenant, key in missing if of == kind)),
            )
            await self._read(tx, rows)
        for key in missing - self._streams.keys():
            self._streams[key] = Stream(ABSENT, 0, initial(self._models[key[0]], key[2]))

    async def _read(self, tx: Connection, rows: Iterable[Any]) -> None:
        by_kind: dict[str, list[Any]] = {}
        stale: list[Any] = []
        for row in rows:
            model = self._models[row["kind"]]
            if row["shape"] == shape_of(model.model):
                by_kind.setdefault(row["kind"], []).append(row)
            else:
                stale.append(row)
        for kind, found in by_kind.items():
            states = await self._codec.load_states(
                self._models[kind].model, [(row["tenant"], row["state"]) for row in found]
            )
            for row, state in zip(found, states, strict=True):
                assert isinstance(state, Aggregate)
                self._streams[kind, row["tenant"], row["key"]] = Stream(row["version"], row["version"], state)
        for row in stale:
            await self._refold(tx, row)

    async def _refold(self, tx: Connection, row: Any) -> None:
        """Fold a stream anew from its events: its snapshot has another shape than the code."""
        key: StreamKey = (row["kind"], row["tenant"], row["key"])
        recorded = await tx.fetch(
            """SELECT type, schema_version, payload, time, version FROM events
               WHERE kind = $1 AND tenant = $2 AND key = $3 ORDER BY version""",
            *key,
        )
        stream = Stream(row["version"], 0, initial(self._models[row["kind"]], row["key"]))
        for event in recorded:
            contract = self._codec.catalog.contracts[event["type"]]
            message = await self._decode(contract, row["tenant"], event)
            stream.state = self._evolved(stream.state, contract, message)
            stream.version = event["version"]
        self._streams[key] = stream

    async def _decode(self, contract: Contract, tenant: str, event: Any) -> Message:
        envelope = Envelope("", event["type"], "", tenant, event["schema_version"], event["time"], "")
        body = event["payload"].encode()
        subject = self._codec.stored_subject(contract, envelope, body)
        if subject is not None:
            await self._codec.vault.warm({subject}, create=False)
        return self._codec.decode(contract, envelope, body, trusted=True)

    async def find_published(self, tx: Connection, scope: str, causes: Collection[Incoming]) -> None:
        """Find what these messages have led to before: it is left out before it evolves anything."""
        ids = [_output_id(scope, cause.envelope, number) for cause in causes for number in range(MAX_OUTPUTS)]
        rows = await tx.fetch("SELECT id FROM events WHERE id = ANY($1::uuid[])", ids)
        self._known |= {row["id"] for row in rows}

    # -- fold -------------------------------------------------------------------------------------------------------

    def state(self, attempt: Attempt, key: StreamKey) -> Aggregate:
        """Give an aggregate as this attempt sees it."""
        found = attempt.streams.get(key) or self._streams.get(key)
        if found is None:
            raise Undeclared(f"{key[0]} {key[2]} is not locked; ask for it in the handler's signature")
        return found.state

    def holder(self, attempt: Attempt, digest: Digest) -> str | None:
        """Give the key of the aggregate that holds a locked claim."""
        if digest in attempt.claims:
            return attempt.claims[digest][3]
        return self._claims[digest]

    def emit(self, attempt: Attempt, scope: str, cause: Incoming, message: Message, now: datetime) -> None:
        """Publish a message: a fact is appended to its stream and evolves its aggregate, a command is sent."""
        contract = self._codec.catalog.of(type(message))
        envelope = cause.envelope
        message_id = _output_id(scope, envelope, attempt.emitted)
        attempt.emitted += 1
        if message_id in self._known:
            return
        value = getattr(message, contract.key)
        # Mostly it is the very value that the cause brought, whose text is known.
        key = cause.key if value is getattr(cause.message, cause.contract.key) else str(value)
        sequence = None
        stream_key: StreamKey | None = None
        if contract.kind != "command":
            model = self._wiring.aggregates[contract.key]
            stream_key = (model.name, envelope.tenant, key)
            known = attempt.streams.get(stream_key) or self._streams.get(stream_key)
            stream = known or Stream(UNSEEN, 0, initial(model, stream_key[2]))
            state = self._evolved(stream.state, contract, message)
            if model.claims:
                self._reclaim(attempt, model, stream_key, stream.state, state)
            sequence = stream.version + 1
            attempt.streams[stream_key] = Stream(stream.stored, sequence, state)
        out = Envelope(
            str(message_id),
            contract.name,
            self._source,
            envelope.tenant,
            contract.current,
            now,
            envelope.correlation,
            envelope.id,
            sequence,
            None,
            envelope.traceparent,
        )
        attempt.outputs.append(Output(contract, message, key, out, message_id, stream_key))

    def merge(self, attempt: Attempt) -> None:
        """Keep what a successful attempt changed."""
        self._streams.update(attempt.streams)
        self._outputs += attempt.outputs
        if attempt.claims:
            self._claims |= {digest: claim[3] for digest, claim in attempt.claims.items()}
            self._changed_claims |= attempt.claims

    def _evolved(self, state: Aggregate, contract: Contract, message: Message) -> Aggregate:
        evolver = self._wiring.evolvers.get(contract.name)
        if evolver is None:
            return state
        evolved: Aggregate = evolver.function(state, message)
        return evolved

    def _reclaim(
        self, attempt: Attempt, model: StateModel, key: StreamKey, before: Aggregate, after: Aggregate
    ) -> None:
        for claim in model.claims:
            had, has = set(_values(getattr(before, claim))), set(_values(getattr(after, claim)))
            for value in had - has:
                digest = self._codec.vault.claim_digest(key[1], key[0], claim, value)
                attempt.claims[digest] = (key[0], claim, key[1], None)
            for value in has - had:
                digest = self._codec.vault.claim_digest(key[1], key[0], claim, value)
                if digest not in self._claims and digest not in attempt.claims:
                    raise Undeclared(
                        f"{key[0]}.{claim} is taken unseen; ask for its Holder in the handler's signature"
                    )
                if self.holder(attempt, digest) not in {None, key[2]}:
                    raise Undeclared(f"{key[0]}.{claim} is held by another {key[0]}; the handler must refuse")
                attempt.claims[digest] = (key[0], claim, key[1], key[2])

    # -- save -------------------------------------------------------------------------------------------------------

    async def save(self, tx: Connection, writes: Writes) -> None:
        """Write aggregates, events, claims and outbox."""
        changed = {
            key: stream
            for key, stream in self._streams.items()
            if stream.version != max(stream.stored, ABSENT)
        }
        await self._warm(changed)
        await self._check_unseen(tx, [key for key, stream in changed.items() if stream.stored == UNSEEN])
        self._save_streams(writes, changed)
        outgoing = [
            outbox.prepared(self._codec, it.message, it.key, it.id, it.envelope) for it in self._outputs
        ]
        self._save_facts(writes, outgoing)
        self._save_claims(writes)
        outbox.add(writes, outgoing)

    async def _warm(self, changed: dict[StreamKey, Stream]) -> None:
        subjects = {
            subject
            for it in self._outputs
            if (subject := self._codec.subject_of(it.contract, it.envelope.tenant, it.message)) is not None
        }
        subjects |= {
            subject
            for key, stream in changed.items()
            if (subject := self._codec.state_subject(key[1], stream.state)) is not None
        }
        await self._codec.vault.warm(subjects, create=True)

    async def _check_unseen(self, tx: Connection, keys: Sequence[StreamKey]) -> None:
        """Let nobody open an aggregate that is there and was not asked for."""
        if not keys:
            return
        there = await tx.fetch(
            """SELECT a.kind, a.key FROM aggregates a
               JOIN unnest($1::text[], $2::text[], $3::text[]) AS n (kind, tenant, key) USING (kind, tenant, key)""",
            *arrays(keys),
        )
        if there:
            raise Undeclared(
                f"a decision opened {there[0]['kind']} {there[0]['key']}, which exists already; ask for it in the handler's signature"
            )

    def _save_streams(self, writes: Writes, changed: dict[StreamKey, Stream]) -> None:
        there = {key: stream for key, stream in changed.items() if stream.stored > ABSENT}
        for kind in sorted({kind for kind, _, _ in there}):
            keys = sorted(key for key in there if key[0] == kind)
            writes.add(
                _UPDATE,
                kind,
                shape_of(self._models[kind].model),
                [key[1] for key in keys],
                [key[2] for key in keys],
                [there[key].version for key in keys],
                [self._codec.dump_state(key[1], there[key].state) for key in keys],
            )
        writes.insert(
            AGGREGATES,
            [
                (
                    *key,
                    changed[key].version,
                    shape_of(self._models[key[0]].model),
                    self._codec.dump_state(key[1], changed[key].state),
                )
                for key in sorted(changed.keys() - there.keys())
            ],
            outrun,
        )

    def _save_facts(self, writes: Writes, outgoing: Sequence[Outgoing]) -> None:
        facts = [
            (
                it.id,
                *it.stream,
                it.envelope.sequence,
                it.contract.name,
                it.contract.current,
                sent.value.decode(),
                it.envelope.source,
                it.envelope.correlation,
                it.envelope.causation,
                it.envelope.traceparent,
                it.envelope.time,
            )
            for it, sent in zip(self._outputs, outgoing, strict=True)
            if it.stream is not None
        ]
        writes.insert(EVENTS, facts, _recorded)

    def _save_claims(self, writes: Writes) -> None:
        held = [
            (digest, *claim) for digest, claim in sorted(self._changed_claims.items()) if claim[3] is not None
        ]
        if held:
            writes.add(
                """INSERT INTO claims (digest, kind, claim, tenant, holder)
                   SELECT * FROM unnest($1::bytea[], $2::text[], $3::text[], $4::text[], $5::text[])
                   ON CONFLICT (digest) DO UPDATE SET holder = excluded.holder""",
                *arrays(held),
            )
        free = sorted(
            digest
            for digest in self._loaded_claims | self._changed_claims.keys()
            if self._claims[digest] is None
        )
        if free:
            writes.add("DELETE FROM claims WHERE digest = ANY($1::bytea[])", free)


def _recorded(taken: UniqueViolationError) -> Undeclared:
    return Undeclared(f"an event exists already under its id or version: {taken.detail}")


def initial(model: StateModel, key: str) -> Aggregate:
    """Give the state that a stream begins from."""
    state = model.model.model_validate_strings({model.key: key})
    assert isinstance(state, Aggregate)
    return state


def _output_id(scope: str, cause: Envelope, number: int) -> UUID:
    """Derive the id of a message's output from its cause and its place among the outputs."""
    return derived_id(scope, cause.tenant, cause.source, cause.id, str(number))


def _values(claimed: object) -> Iterator[str]:
    """Walk the values in a claimed field: one, several or none; an erased one claims nothing."""
    if claimed is None or isinstance(claimed, Erased):
        return
    if isinstance(claimed, tuple | list | set | frozenset):
        for value in claimed:
            yield from _values(value)
    else:
        yield str(claimed)
