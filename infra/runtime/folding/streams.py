"""The aggregates of one context under their locks: read set-wise, folded in memory, written set-wise.

Locks are taken claims first, then aggregates, each sorted; an absent row is made a skeleton first, because locking
nothing locks nobody out. The events' versions are taken under the aggregate's lock, so they are its sequence.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from asyncpg import IntegrityConstraintViolationError

from events import Erased, Event, Message
from handlers import Aggregate
from infra.errors import TriplaneError
from infra.postgres.database import Connection
from infra.runtime.catalog import Contract, DeciderWiring, StateModel
from infra.runtime.messages.codec import Codec, Incoming, shape_of
from infra.runtime.messages.envelope import Envelope
from infra.runtime.messages.ids import derived_id, source_of
from infra.runtime.publishing import outbox

StreamKey = tuple[str, str, str]
"""Aggregate kind, tenant, key."""
Digest = bytes

FRESH: Final = -1
MAX_OUTPUTS: Final = 32
"""So many outputs of a replayed message are looked for. One beyond is refused by its id, and the message parked."""

_NEW: Final = """(SELECT kind, tenant, key, version, shape, state::json AS state
    FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::text[])
    AS n (kind, tenant, key, version, shape, state)) AS n"""
_UPDATE: Final = f"""UPDATE aggregates a SET version = n.version, shape = n.shape, state = n.state FROM {_NEW}
    WHERE (a.kind, a.tenant, a.key) = (n.kind, n.tenant, n.key) RETURNING 1"""
_INSERT: Final = f"""INSERT INTO aggregates (kind, tenant, key, version, shape, state)
    SELECT kind, tenant, key, version, shape, state FROM {_NEW} ON CONFLICT DO NOTHING RETURNING 1"""


class Undeclared(TriplaneError, ValueError):
    """A decision touched state that its handler does not ask for, so it was not locked."""


@dataclass(slots=True)
class Stream:
    """One aggregate with its version; `stored` is the version that the database has (`FRESH`: no row locked)."""

    stored: int
    version: int
    state: Aggregate


@dataclass(slots=True)
class Fact:
    """One event about to be appended to its stream."""

    stream: StreamKey
    version: int
    contract: Contract
    message: Message
    envelope: Envelope
    id: UUID


@dataclass(slots=True)
class Attempt:
    """What one message would change. Dropped when its fold raises, merged when it succeeds."""

    streams: dict[StreamKey, Stream] = field(default_factory=dict)
    claims: dict[Digest, tuple[str, str, str, str | None]] = field(default_factory=dict)
    facts: list[Fact] = field(default_factory=list)
    published: list[tuple[Contract, Message, Envelope, UUID]] = field(default_factory=list)
    outputs: int = 0


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
        self._facts: list[Fact] = []
        self._published: list[tuple[Contract, Message, Envelope, UUID]] = []
        self._known: set[UUID] = set()

    # -- load -------------------------------------------------------------------------------------------------------

    async def lock_claims(
        self, tx: Connection, wanted: Collection[tuple[Digest, str, str, str]]
    ) -> set[StreamKey]:
        """Lock claimed values, each `(digest, kind, claim, tenant)`; give the streams that hold any."""
        by_digest = {digest: (kind, claim, tenant) for digest, kind, claim, tenant in wanted}
        missing = sorted(by_digest.keys() - self._loaded_claims)
        while missing:
            await tx.execute(
                """INSERT INTO claims (digest, kind, claim, tenant)
                   SELECT * FROM unnest($1::bytea[], $2::text[], $3::text[], $4::text[]) ON CONFLICT DO NOTHING""",
                missing,
                *map(list, zip(*(by_digest[digest] for digest in missing), strict=True)),
            )
            rows = await tx.fetch(
                "SELECT digest, holder FROM claims WHERE digest = ANY($1::bytea[]) ORDER BY digest FOR UPDATE",
                missing,
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
        missing = sorted(set(keys) - self._streams.keys())
        while missing:
            columns = [list(column) for column in zip(*missing, strict=True)]
            await tx.execute(
                """INSERT INTO aggregates (kind, tenant, key)
                   SELECT * FROM unnest($1::text[], $2::text[], $3::text[]) ON CONFLICT DO NOTHING""",
                *columns,
            )
            rows = await tx.fetch(
                """SELECT a.kind, a.tenant, a.key, a.version, a.shape, a.state FROM aggregates a
                   JOIN unnest($1::text[], $2::text[], $3::text[]) AS wanted (kind, tenant, key) USING (kind, tenant, key)
                   ORDER BY a.kind COLLATE "C", a.tenant COLLATE "C", a.key COLLATE "C" FOR UPDATE OF a""",
                *columns,
            )
            await self._read(tx, rows)
            missing = sorted(set(missing) - self._streams.keys())

    async def _read(self, tx: Connection, rows: Iterable[Any]) -> None:
        by_kind: dict[str, list[Any]] = {}
        stale: list[Any] = []
        for row in rows:
            model = self._models[row["kind"]]
            if row["version"] == 0:
                self._streams[row["kind"], row["tenant"], row["key"]] = Stream(
                    0, 0, initial(model, row["key"])
                )
            elif row["shape"] == shape_of(model.model):
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
        message_id = _output_id(scope, envelope, attempt.outputs)
        attempt.outputs += 1
        if message_id in self._known:
            return
        sequence = None
        stream_key: StreamKey | None = None
        if isinstance(message, Event):
            model = self._wiring.aggregates[contract.key]
            stream_key = (model.name, envelope.tenant, str(getattr(message, contract.key)))
            known = attempt.streams.get(stream_key) or self._streams.get(stream_key)
            stream = known or Stream(FRESH, 0, initial(model, stream_key[2]))
            state = self._evolved(stream.state, contract, message)
            self._reclaim(attempt, model, stream_key, stream.state, state)
            sequence = stream.version + 1
            attempt.streams[stream_key] = Stream(stream.stored, sequence, state)
        out = Envelope(
            id=str(message_id),
            type=contract.name,
            source=source_of(self._wiring.name),
            tenant=envelope.tenant,
            version=contract.current,
            time=now,
            correlation=envelope.correlation,
            causation=envelope.id,
            sequence=sequence,
            traceparent=envelope.traceparent,
        )
        if stream_key is not None and sequence is not None:
            attempt.facts.append(Fact(stream_key, sequence, contract, message, out, message_id))
        attempt.published.append((contract, message, out, message_id))

    def merge(self, attempt: Attempt) -> None:
        """Keep what a successful attempt changed."""
        self._streams |= attempt.streams
        self._claims |= {digest: claim[3] for digest, claim in attempt.claims.items()}
        self._changed_claims |= attempt.claims
        self._facts += attempt.facts
        self._published += attempt.published

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

    async def save(self, tx: Connection) -> None:
        """Write aggregates, events, claims and outbox, each in one statement."""
        changed = {
            key: stream for key, stream in self._streams.items() if stream.version != max(stream.stored, 0)
        }
        await self._warm(changed)
        await self._save_streams(tx, changed)
        outgoing = [
            outbox.prepared(self._codec, message, message_id, envelope)
            for _, message, envelope, message_id in self._published
        ]
        await self._save_facts(tx, {message.id: message.value for message in outgoing})
        await self._save_claims(tx)
        await outbox.write(tx, outgoing)

    async def _warm(self, changed: dict[StreamKey, Stream]) -> None:
        subjects = {
            subject
            for contract, message, envelope, _ in self._published
            if (subject := self._codec.subject_of(contract, envelope.tenant, message)) is not None
        }
        subjects |= {
            subject
            for key, stream in changed.items()
            if (subject := self._codec.state_subject(key[1], stream.state)) is not None
        }
        await self._codec.vault.warm(subjects, create=True)

    async def _save_streams(self, tx: Connection, changed: dict[StreamKey, Stream]) -> None:
        skeletons = [
            key for key, stream in self._streams.items() if stream.stored == 0 and stream.version == 0
        ]
        if skeletons:
            await tx.execute(
                """DELETE FROM aggregates a USING unnest($1::text[], $2::text[], $3::text[]) AS gone (kind, tenant, key)
                   WHERE (a.kind, a.tenant, a.key) = (gone.kind, gone.tenant, gone.key) AND a.version = 0""",
                *map(list, zip(*skeletons, strict=True)),
            )
        for fresh, statement in ((False, _UPDATE), (True, _INSERT)):
            keys = sorted(key for key, stream in changed.items() if (stream.stored == FRESH) == fresh)
            if not keys:
                continue
            written = await tx.fetch(
                statement,
                [key[0] for key in keys],
                [key[1] for key in keys],
                [key[2] for key in keys],
                [changed[key].version for key in keys],
                [shape_of(self._models[key[0]].model) for key in keys],
                [self._codec.dump_state(key[1], changed[key].state) for key in keys],
            )
            if len(written) != len(keys):
                raise Undeclared(
                    "a decision opened a stream that exists already; ask for it in the handler's signature"
                )

    async def _save_facts(self, tx: Connection, bodies: dict[UUID, bytes]) -> None:
        facts = self._facts
        if not facts:
            return
        try:
            await tx.execute(
                """INSERT INTO events (id, kind, tenant, key, version, type, schema_version, payload,
                                       source, correlation, causation, traceparent, time)
                   SELECT id, kind, tenant, key, version, type, schema_version, payload::json,
                          source, correlation, causation, traceparent, time
                   FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::text[], $7::int[], $8::text[],
                               $9::text[], $10::text[], $11::text[], $12::text[], $13::timestamptz[])
                   AS e (id, kind, tenant, key, version, type, schema_version, payload,
                         source, correlation, causation, traceparent, time)""",
                [fact.id for fact in facts],
                [fact.stream[0] for fact in facts],
                [fact.stream[1] for fact in facts],
                [fact.stream[2] for fact in facts],
                [fact.version for fact in facts],
                [fact.contract.name for fact in facts],
                [fact.contract.current for fact in facts],
                [bodies[fact.id].decode() for fact in facts],
                [fact.envelope.source for fact in facts],
                [fact.envelope.correlation for fact in facts],
                [fact.envelope.causation for fact in facts],
                [fact.envelope.traceparent for fact in facts],
                [fact.envelope.time for fact in facts],
            )
        except IntegrityConstraintViolationError as taken:
            raise Undeclared(f"an event exists already under its id or version: {taken.detail}") from taken

    async def _save_claims(self, tx: Connection) -> None:
        changed = self._changed_claims
        if changed:
            digests = sorted(changed)
            await tx.execute(
                """INSERT INTO claims (digest, kind, claim, tenant, holder)
                   SELECT * FROM unnest($1::bytea[], $2::text[], $3::text[], $4::text[], $5::text[])
                   ON CONFLICT (digest) DO UPDATE SET holder = excluded.holder""",
                digests,
                *map(list, zip(*(changed[digest] for digest in digests), strict=True)),
            )
        free = sorted(self._loaded_claims | changed.keys())
        if free:
            await tx.execute("DELETE FROM claims WHERE digest = ANY($1::bytea[]) AND holder IS NULL", free)


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
