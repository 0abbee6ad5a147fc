"""How a saga is folded: state, history, commands, deadline and inbox mark in one transaction, under the saga's row lock.

An event that comes before its saga waits for it. The deadline of a state is a row, numbered, set when the state is
entered and gone when it is left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

from pydantic_core import from_json, to_json

from events import Message
from events.sagas import SagaAdvanced
from infra.errors import TriplaneError, Unacceptable
from infra.postgres.database import Connection
from infra.postgres.writes import Table, Writes, arrays
from infra.runtime.catalog import SagaWiring
from infra.runtime.catalog.signatures import META, NEW_ID, NOW, Signature
from infra.runtime.consuming.parking import frozen, thawed
from infra.runtime.folding.injection import Ids, metadata_of
from infra.runtime.messages.codec import Codec, Incoming, Rejected, shape_of
from infra.runtime.messages.delivery import Delivery
from infra.runtime.messages.envelope import Envelope
from infra.runtime.messages.ids import derived_id, source_of
from infra.runtime.messages.vault import TENANT_KEY
from infra.runtime.publishing import outbox
from sagas import Compensated, Ended, State, Step, Stuck

InstanceKey = tuple[str, str]
"""Tenant and correlation value."""
DEADLINE: Final = "deadline"

_LOCK: Final = """
    SELECT i.*, now() AS now FROM instances i JOIN unnest($2::text[], $3::text[]) AS w (tenant, key) USING (tenant, key)
    WHERE i.saga = $1 ORDER BY i.tenant COLLATE "C", i.key COLLATE "C" FOR UPDATE OF i"""
_MAKE: Final = """
    INSERT INTO instances (saga, tenant, key) SELECT $1, * FROM unnest($2::text[], $3::text[])
    ON CONFLICT DO NOTHING RETURNING tenant, key, now() AS now"""
_REMEMBER: Final = """
    INSERT INTO history (saga, tenant, key, version, because, cause, was, entered, commands, at)
    SELECT $1, tenant, key, version, because, cause, was, entered, ARRAY(SELECT json_array_elements_text(commands::json)), now()
    FROM unnest($2::text[], $3::text[], $4::bigint[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[])
      AS n (tenant, key, version, because, cause, was, entered, commands)"""
EARLY: Final = Table(
    "early",
    (
        ("saga", "text"),
        ("tenant", "text"),
        ("key", "text"),
        ("record", "bytea"),
        ("topic", "text"),
        ("partition", "int"),
        ("offset", "bigint"),
        ("timestamp", "bigint"),
        ("type", "text"),
    ),
)


class NoMove(TriplaneError):
    """A saga cannot answer what it was given."""


@dataclass(slots=True, frozen=True)
class Instance:
    """One saga instance; `deadline` numbers the states entered, so an old deadline never fires."""

    version: int = 0
    state: State | None = None
    correlation: str = ""
    deadline: int = 0
    within: timedelta | None = None
    """How long after this transaction the present state falls due, if this batch entered it."""
    touched: bool = False


@dataclass(slots=True)
class Taken:
    """One step, as the history keeps it."""

    key: InstanceKey
    version: int
    because: str
    cause: str
    was: str | None
    entered: str
    commands: list[str]


@dataclass(slots=True)
class Staged:
    """What one message would change."""

    instance: Instance
    taken: list[Taken] = field(default_factory=list)
    sent: list[tuple[Message, Envelope, UUID]] = field(default_factory=list)


class Stepping:
    """One batch of a saga's consumer."""

    def __init__(self, wiring: SagaWiring, codec: Codec, delivery: Delivery | None = None) -> None:
        """Step instances of `wiring`'s saga; `delivery` is how the messages come."""
        self._wiring = wiring
        self._codec = codec
        self._delivery = delivery or Delivery(wiring.name)
        self._answered: set[tuple[InstanceKey, str]] = set()
        self._instances: dict[InstanceKey, Instance] = {}
        self._early: dict[InstanceKey, list[tuple[int | None, Incoming]]] = {}
        self._kept: list[tuple[InstanceKey, Incoming]] = []
        self._used: list[int] = []
        self._taken: list[Taken] = []
        self._sent: list[tuple[Message, Envelope, UUID]] = []
        self._now = datetime.min.replace(tzinfo=UTC)

    # -- which instance ---------------------------------------------------------------------------------------------

    def _key(self, incoming: Incoming) -> InstanceKey | None:
        value = getattr(incoming.message, self._wiring.correlation[incoming.contract.name])
        return None if value is None else (incoming.envelope.tenant, str(value))

    def keys(self, incoming: Incoming) -> tuple[str, ...]:
        """Name the instance that a message concerns; none when it is not this saga's."""
        key = self._key(incoming)
        return () if key is None else (parking_key(self._wiring, *key),)

    # -- load -------------------------------------------------------------------------------------------------------

    async def load(self, tx: Connection, batch: Sequence[Incoming]) -> None:
        """Lock the instances that the messages concern, with what has come early for them."""
        keys = {key for incoming in batch if (key := self._key(incoming)) is not None}
        await self.lock(tx, keys)
        if self._delivery.repeated:
            await self._find_answered(tx, keys)

    async def _find_answered(self, tx: Connection, keys: set[InstanceKey]) -> None:
        """Find which messages these instances have answered, or keep: they are not answered once more."""
        columns = [[tenant for tenant, _ in keys], [key for _, key in keys]]
        rows = await tx.fetch(
            """SELECT tenant, key, cause FROM history JOIN unnest($2::text[], $3::text[]) AS w (tenant, key) USING (tenant, key)
               WHERE saga = $1""",
            self._wiring.saga.name,
            *columns,
        )
        self._answered = {((row["tenant"], row["key"]), row["cause"]) for row in rows}
        self._answered |= {(key, it.envelope.id) for key, kept in self._early.items() for _, it in kept}

    async def lock(self, tx: Connection, keys: set[InstanceKey]) -> None:
        """Lock and load instances, in key order; an absent one is made a skeleton, so that nobody starts it meanwhile."""
        missing = keys
        while missing:
            rows = await tx.fetch(_LOCK, self._wiring.saga.name, *arrays(sorted(missing)))
            for row in rows:
                self._instances[row["tenant"], row["key"]] = await self._instance(row)
            if len(rows) < len(missing):
                made = await tx.fetch(
                    _MAKE, self._wiring.saga.name, *arrays(sorted(missing - self._instances.keys()))
                )
                self._instances |= {(row["tenant"], row["key"]): Instance() for row in made}
                rows = rows or made
            if rows:
                self._now = rows[0]["now"]
            # What somebody else has made meanwhile is locked in the next round.
            missing = missing - self._instances.keys()
        waiting = sorted(key for key in keys if self._instances[key].state is None)
        if waiting:
            await self._load_early(tx, arrays(waiting))

    async def _instance(self, row: Any) -> Instance:
        if row["state_name"] is None:
            return Instance()
        kind = self._wiring.states.get(row["state_name"]) or self._wiring.past.get(row["state_name"])
        if kind is None:
            raise NoMove(
                f"saga {self._wiring.saga.name}: its state {row['state_name']!r} is unknown to the code; keep the class"
            )
        (state,) = await self._codec.load_states(kind, [(row["tenant"], row["state"])])
        while type(state).__name__ in self._wiring.past:
            state = state.upcast()
        return Instance(row["version"], state, row["correlation"], row["deadline"])

    async def _load_early(self, tx: Connection, columns: list[list[str]]) -> None:
        rows = await tx.fetch(
            """SELECT e.* FROM early e JOIN unnest($2::text[], $3::text[]) AS w (tenant, key) USING (tenant, key)
               WHERE e.saga = $1 ORDER BY e.position""",
            self._wiring.saga.name,
            *columns,
        )
        if not rows:
            return
        await self._codec.vault.warm({(row["tenant"], TENANT_KEY) for row in rows}, create=False)
        records = [
            thawed(
                from_json(self._codec.vault.unseal_bytes(row["tenant"], row["record"])),
                (row["topic"], row["partition"], row["offset"], row["timestamp"]),
            )
            for row in rows
        ]
        opened = await self._codec.open_all(self._wiring.name, 1, self._wiring.listens, records)
        for row, incoming in zip(rows, opened, strict=True):
            if isinstance(incoming, Rejected):
                raise Unacceptable(
                    incoming.reason, f"an event that came early cannot be read any more: {incoming.detail}"
                )
            self._early.setdefault((row["tenant"], row["key"]), []).append((row["position"], incoming))

    # -- fold -------------------------------------------------------------------------------------------------------

    def fold(self, incoming: Incoming) -> None:
        """Take the step that an event asks for, and those that waited for it."""
        key = self._key(incoming)
        if key is None or (key, incoming.envelope.id) in self._answered:
            return
        instance = self._instances[key]
        if instance.state is None and incoming.contract.name not in self._wiring.starters:
            self._early.setdefault(key, []).append((None, incoming))
            self._kept.append((key, incoming))
            return
        staged = Staged(instance)
        self._answer(staged, key, incoming)
        waiting = self._early.pop(key, []) if instance.state is None else []
        try:
            for _, early in waiting:
                self._answer(staged, key, early)
        except Exception:
            self._early[key] = waiting
            raise
        waited = {id(early) for _, early in waiting}
        self._kept = [(of, it) for of, it in self._kept if id(it) not in waited]
        self._used += [position for position, _ in waiting if position is not None]
        self._merge(key, staged)

    def _answer(self, staged: Staged, key: InstanceKey, incoming: Incoming) -> None:
        name = incoming.contract.name
        state = staged.instance.state
        if state is None:
            signature = self._wiring.starters[name]
            given: tuple[Any, ...] = (incoming.message,)
        else:
            found = self._wiring.moves.get((type(state), name))
            if found is None:
                raise NoMove(f"saga {self._wiring.saga.name}: {type(state).__name__} has no move for {name}")
            signature = found
            given = (state, incoming.message)
        step = self._decided(signature, given, incoming.envelope, incoming.record.at)
        self._take(staged, key, step, name, incoming.envelope)

    def late(self, key: InstanceKey, number: int) -> bool:
        """Take the step that a deadline asks for, if it still stands; its key and number are its identity."""
        instance = self._instances[key]
        if instance.state is None or instance.deadline != number:
            return False
        cause = Envelope(
            id=f"deadline:{self._wiring.saga.name}:{key[1]}:{number}",
            type=DEADLINE,
            source=source_of("sagas"),
            tenant=key[0],
            version=1,
            time=self._now,
            correlation=instance.correlation,
        )
        step = self._decided(self._wiring.lates[type(instance.state)], (instance.state,), cause, self._now)
        staged = Staged(instance)
        self._take(staged, key, step, DEADLINE, cause)
        self._merge(key, staged)
        return True

    def _decided(
        self, signature: Signature, given: tuple[Any, ...], cause: Envelope, now: datetime
    ) -> Step[Any]:
        extra = {NOW: now, META: metadata_of(cause), NEW_ID: Ids(self._delivery.scope, cause)}
        step = signature.function(
            *given, **{name: extra[str(need)] for name, need in signature.needs.items()}
        )
        if not isinstance(step, Step):
            raise NoMove(
                f"saga {self._wiring.saga.name}: {signature.name} returned no step; return go(...) or stay(...)"
            )
        return step

    def _take(self, staged: Staged, key: InstanceKey, step: Step[Any], because: str, cause: Envelope) -> None:
        """Enter the step's state and note its commands."""
        before = staged.instance
        state = step.enter if step.enter is not None else before.state
        if state is None:
            raise NoMove(f"saga {self._wiring.saga.name}: {because} starts it, so the move enters a state")
        entered = step.enter is not None
        if not entered and not step.commands and before.state is not None:
            return
        version = before.version + 1
        after = Instance(
            version=version,
            state=state,
            correlation=before.correlation or cause.correlation,
            deadline=before.deadline + 1 if entered else before.deadline,
            within=type(state).within if entered else before.within,
            touched=True,
        )
        staged.instance = after
        was = None if before.state is None else type(before.state).__name__
        names = [self._codec.catalog.of(type(command)).name for command in step.commands]
        staged.taken.append(Taken(key, version, because, cause.id, was, type(state).__name__, names))
        messages: list[Message] = [*step.commands, self._advanced(key, staged, was)]
        for number, message in enumerate(messages):
            message_id = derived_id(
                self._delivery.scope, cause.tenant, cause.source, cause.id, f"{version}.{number}"
            )
            staged.sent.append((message, self._envelope(message, message_id, key, after, cause), message_id))

    def _advanced(self, key: InstanceKey, staged: Staged, was: str | None) -> SagaAdvanced:
        after, taken = staged.instance, staged.taken[-1]
        state = after.state
        name = self._wiring.saga.name
        return SagaAdvanced(
            instance_id=derived_id("saga", name, *key),
            saga=name,
            correlation=key[1],
            step=after.version,
            entered=taken.entered,
            was=was,
            because=taken.because,
            commands=taken.commands,
            ended=isinstance(state, Ended),
            compensated=isinstance(state, Compensated),
            stuck=isinstance(state, Stuck),
            due_at=self._now + after.within if after.within is not None else None,
            at=self._now,
        )

    def _envelope(
        self, message: Message, message_id: UUID, key: InstanceKey, instance: Instance, cause: Envelope
    ) -> Envelope:
        contract = self._codec.catalog.of(type(message))
        return Envelope(
            id=str(message_id),
            type=contract.name,
            source=source_of("sagas"),
            tenant=key[0],
            version=contract.current,
            time=self._now,
            correlation=instance.correlation,
            causation=cause.id,
            sequence=instance.version if isinstance(message, SagaAdvanced) else None,
            traceparent=cause.traceparent,
        )

    def _merge(self, key: InstanceKey, staged: Staged) -> None:
        """Keep what a successful step changed."""
        self._instances[key] = staged.instance
        self._taken += staged.taken
        self._sent += staged.sent

    # -- save -------------------------------------------------------------------------------------------------------

    async def save(self, tx: Connection, writes: Writes) -> None:  # noqa: ARG002 - nothing is asked any more
        """Write instances, deadlines, history, early events and outgoing commands."""
        name = self._wiring.saga.name
        skeletons = [key for key, instance in self._instances.items() if instance.state is None]
        if skeletons:
            writes.add(
                """DELETE FROM instances i USING unnest($2::text[], $3::text[]) AS gone (tenant, key)
                   WHERE i.saga = $1 AND (i.tenant, i.key) = (gone.tenant, gone.key) AND i.version = 0""",
                name,
                *arrays(skeletons),
            )
        await self._save_instances(writes, name)
        await self._save_early(writes, name)
        if self._taken:
            writes.add(
                _REMEMBER,
                name,
                *arrays(
                    [
                        (
                            *it.key,
                            it.version,
                            it.because,
                            it.cause,
                            it.was,
                            it.entered,
                            to_json(it.commands).decode(),
                        )
                        for it in self._taken
                    ]
                ),
            )
        await self._send(writes)

    async def _save_instances(self, writes: Writes, name: str) -> None:
        changed = sorted(key for key, it in self._instances.items() if it.touched)
        if not changed:
            return
        instances = [self._instances[key] for key in changed]
        states = [instance.state for instance in instances if instance.state is not None]
        subjects = {
            self._codec.state_subject(key[0], state) for key, state in zip(changed, states, strict=True)
        }
        await self._codec.vault.warm([subject for subject in subjects if subject is not None], create=True)
        tenants, keys = [key[0] for key in changed], [key[1] for key in changed]
        writes.add(
            """UPDATE instances i SET version = n.version, state_name = n.state_name, state = n.state::json, shape = n.shape,
                      correlation = n.correlation, deadline = n.deadline, started_at = coalesce(i.started_at, now()),
                      stepped_at = now()
               FROM unnest($2::text[], $3::text[], $4::bigint[], $5::text[], $6::text[], $7::bigint[], $8::text[], $9::bigint[])
                 AS n (tenant, key, version, state_name, state, shape, correlation, deadline)
               WHERE i.saga = $1 AND (i.tenant, i.key) = (n.tenant, n.key)""",
            name,
            tenants,
            keys,
            [instance.version for instance in instances],
            [type(state).__name__ for state in states],
            [self._codec.dump_state(key[0], state) for key, state in zip(changed, states, strict=True)],
            [shape_of(type(state)) for state in states],
            [instance.correlation for instance in instances],
            [instance.deadline for instance in instances],
        )
        numbered = [(*key, it.deadline, it.within) for key, it in zip(changed, instances, strict=True)]
        due = [it for it in numbered if it[-1] is not None]
        left = [it[:-1] for it in numbered if it[-1] is None]
        if due:
            writes.add(
                """INSERT INTO deadlines AS d (saga, tenant, key, number, due)
                   SELECT $1, tenant, key, number, now() + within
                   FROM unnest($2::text[], $3::text[], $4::bigint[], $5::interval[]) AS n (tenant, key, number, within)
                   ON CONFLICT (saga, tenant, key) DO UPDATE SET number = excluded.number, due = excluded.due
                   WHERE d.number < excluded.number""",
                name,
                *arrays(due),
            )
        if left:
            writes.add(
                """DELETE FROM deadlines d USING unnest($2::text[], $3::text[], $4::bigint[]) AS n (tenant, key, number)
                   WHERE d.saga = $1 AND (d.tenant, d.key) = (n.tenant, n.key) AND d.number < n.number""",
                name,
                *arrays(left),
            )

    async def _save_early(self, writes: Writes, name: str) -> None:
        if self._used:
            writes.add("DELETE FROM early WHERE position = ANY($1::bigint[])", self._used)
        if not self._kept:
            return
        await self._codec.vault.warm({(key[0], TENANT_KEY) for key, _ in self._kept}, create=True)
        writes.insert(
            EARLY,
            [
                (
                    name,
                    *key,
                    self._codec.vault.seal_bytes(key[0], frozen(it.record)),
                    it.record.topic,
                    it.record.partition,
                    it.record.offset,
                    it.record.timestamp,
                    it.contract.name,
                )
                for key, it in self._kept
            ],
        )

    async def _send(self, writes: Writes) -> None:
        subjects = set()
        for message, envelope, _ in self._sent:
            subject = self._codec.subject_of(self._codec.catalog.of(type(message)), envelope.tenant, message)
            if subject is not None:
                subjects.add(subject)
        await self._codec.vault.warm(subjects, create=True)
        outbox.add(
            writes,
            [
                outbox.prepared(self._codec, message, self._codec.key_of(message), message_id, envelope)
                for message, envelope, message_id in self._sent
            ],
        )


def parking_key(wiring: SagaWiring, tenant: str, correlation: str) -> str:
    """Name a saga instance as parking does."""
    return f"{wiring.saga.name}:{tenant}:{correlation}"
