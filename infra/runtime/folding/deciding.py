"""How a worker's deciders, adopters and local views are folded: one consumer, one transaction a batch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic_core import from_json, to_json

from events import Erased
from handlers import Local
from infra.postgres.database import Connection
from infra.postgres.database import Row as Stored
from infra.postgres.writes import Writes
from infra.runtime.catalog import Contract, DeciderWiring
from infra.runtime.catalog.signatures import NEW_ID, NOW, HeldBy, Of, Signature, ViewOf
from infra.runtime.folding.injection import Ids, flattened, metadata_of
from infra.runtime.folding.streams import Attempt, StreamKey, Streams
from infra.runtime.messages.codec import Codec, Incoming, shape_of
from infra.runtime.messages.delivery import Delivery

LocalKey = tuple[type[Local], str, str]
"""View, tenant, key."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What one kind of message concerns, read from the functions that answer it."""

    signatures: tuple[Signature, ...]
    """In the order in which they are called."""
    streams: tuple[tuple[str, str], ...]
    """Aggregates, each with the field of the message that names it."""
    holders: tuple[HeldBy, ...]
    views: tuple[ViewOf, ...]
    kept: tuple[ViewOf, ...]
    """Views that are written, which are thus locked."""


class Deciding:
    """One batch of a worker's consumer."""

    def __init__(self, wiring: DeciderWiring, codec: Codec, delivery: Delivery) -> None:
        """Fold into the aggregates and local views of `wiring`'s context; `delivery` is how the messages come."""
        self._wiring = wiring
        self._codec = codec
        self._delivery = delivery
        self._streams = Streams(wiring, codec)
        self._views: dict[LocalKey, Local] = {}
        self._kept: set[LocalKey] = set()
        self._plans: dict[tuple[str, bool], Plan] = {}

    def plan(self, incoming: Incoming) -> Plan:
        """Say what a message concerns."""
        contract = incoming.contract
        adopted = contract.kind != "command" and incoming.record.inbound
        known = self._plans.get((contract.name, adopted))
        if known is None:
            known = self._plans[contract.name, adopted] = self._planned(contract, adopted=adopted)
        return known

    def _planned(self, contract: Contract, *, adopted: bool) -> Plan:
        keepers = () if adopted else self._wiring.keepers.get(contract.name, ())
        deciders = (
            (self._wiring.adopters[contract.name],)
            if adopted
            else self._wiring.deciders.get(contract.name, ())
        )
        signatures = (*keepers, *deciders)
        needs = [need for signature in signatures for need in signature.needs.values()]
        streams = [(need.kind.__name__, need.field) for need in needs if isinstance(need, Of)]
        # What the deciders publish about the message's own aggregate needs its lock, asked for or not.
        model = self._wiring.aggregates.get(contract.key)
        if model is not None and contract.context == self._wiring.name:
            streams.append((model.name, contract.key))
        return Plan(
            signatures,
            tuple(dict.fromkeys(streams)),
            tuple(need for need in needs if isinstance(need, HeldBy)),
            tuple(need for need in needs if isinstance(need, ViewOf)),
            tuple(need for keeper in keepers for need in keeper.needs.values() if isinstance(need, ViewOf)),
        )

    def keys(self, incoming: Incoming) -> tuple[str, ...]:
        """Name the aggregates and kept views of a message."""
        tenant, plan = incoming.envelope.tenant, self.plan(incoming)
        named = [f"{kind}:{tenant}:{key}" for kind, _, key in _stream_keys(plan, incoming)]
        named += [f"{view.__name__}:{tenant}:{key}" for view, _, key in _view_keys(plan.kept, incoming)]
        return tuple(dict.fromkeys(named)) or (f"{self._wiring.name}:{tenant}:{incoming.key}",)

    # -- load -------------------------------------------------------------------------------------------------------

    async def load(self, tx: Connection, batch: Sequence[Incoming]) -> None:
        """Lock claims, then aggregates, then views, each in order."""
        claims: set[tuple[bytes, str, str, str]] = set()
        keys: set[StreamKey] = set()
        kept: set[LocalKey] = set()
        read: set[LocalKey] = set()
        for incoming in batch:
            plan = self.plan(incoming)
            keys.update(_stream_keys(plan, incoming))
            if plan.holders:
                claims.update(self._claims(plan, incoming))
            if plan.views:
                kept.update(_view_keys(plan.kept, incoming))
                read.update(_view_keys(plan.views, incoming))
        if claims:
            keys |= await self._streams.lock_claims(tx, claims)
        if keys:
            await self._streams.lock(tx, keys)
        if self._delivery.repeated:
            await self._streams.find_published(tx, self._delivery.scope, batch)
        await self._load_views(tx, kept, read - kept)

    def _claims(self, plan: Plan, incoming: Incoming) -> Iterator[tuple[bytes, str, str, str]]:
        for need in plan.holders:
            digest = self._digest(need, incoming)
            if digest is not None:
                yield (digest, need.kind.__name__, need.claim, incoming.envelope.tenant)

    def _digest(self, need: HeldBy, incoming: Incoming) -> bytes | None:
        value = getattr(incoming.message, need.field)
        if value is None or isinstance(value, Erased):
            return None
        return self._codec.vault.claim_digest(
            incoming.envelope.tenant, need.kind.__name__, need.claim, str(value)
        )

    async def _load_views(self, tx: Connection, kept: set[LocalKey], read: set[LocalKey]) -> None:
        if kept:
            ordered = sorted((kind.__name__, tenant, key) for kind, tenant, key in kept)
            await tx.execute(
                """INSERT INTO locals (view, tenant, key) SELECT * FROM unnest($1::text[], $2::text[], $3::text[])
                   ON CONFLICT DO NOTHING""",
                *map(list, zip(*ordered, strict=True)),
            )
        for wanted, lock in (
            (kept, 'ORDER BY l.view COLLATE "C", l.tenant COLLATE "C", l.key COLLATE "C" FOR UPDATE OF l'),
            (read, ""),
        ):
            if not wanted:
                continue
            ordered = sorted((kind.__name__, tenant, key) for kind, tenant, key in wanted)
            rows = await tx.fetch(
                f"""SELECT l.view, l.tenant, l.key, l.shape, l.state FROM locals l
                    JOIN unnest($1::text[], $2::text[], $3::text[]) AS w (view, tenant, key) USING (view, tenant, key)
                    {lock}""",
                *map(list, zip(*ordered, strict=True)),
            )
            stored = {(row["view"], row["tenant"], row["key"]): row for row in rows}
            for kind, tenant, key in wanted:
                row = stored.get((kind.__name__, tenant, key))
                if row is None or row["state"] is None:
                    view = kind.model_validate_strings({self._wiring.locals[kind].key: key})
                else:
                    (view,) = await self._codec.load_states(kind, [(tenant, _reshaped(kind, row))])
                self._views[kind, tenant, key] = view

    # -- fold -------------------------------------------------------------------------------------------------------

    def fold(self, incoming: Incoming) -> None:
        """Decide on one message; all of it counts, or nothing."""
        attempt = Attempt()
        kept: dict[LocalKey, Local] = {}
        now = incoming.record.at
        ids = Ids(self._delivery.scope, incoming.envelope)
        for signature in self.plan(incoming).signatures:
            arguments = self._arguments(signature, incoming, attempt, ids, now, kept)
            result = signature.function(**arguments)
            if isinstance(result, Local):
                views = [need for need in signature.needs.values() if isinstance(need, ViewOf)]
                (key,) = _view_keys(views, incoming)
                kept[key] = result
                continue
            for message in flattened(result):
                self._streams.emit(attempt, self._delivery.scope, incoming, message, now)
        self._streams.merge(attempt)
        if kept:
            self._views |= kept
            self._kept |= kept.keys()

    def _arguments(
        self,
        signature: Signature,
        incoming: Incoming,
        attempt: Attempt,
        ids: Ids,
        now: datetime,
        kept: dict[LocalKey, Local],
    ) -> dict[str, Any]:
        tenant = incoming.envelope.tenant
        arguments: dict[str, Any] = {signature.parameter: incoming.message}
        for name, need in signature.needs.items():
            match need:
                case Of(kind, field):
                    text = _text(incoming, field)
                    arguments[name] = (
                        None if text is None else self._streams.state(attempt, (kind.__name__, tenant, text))
                    )
                case ViewOf(kind, field):
                    text = _text(incoming, field)
                    if text is None:
                        arguments[name] = None
                    else:
                        key = (kind, tenant, text)
                        arguments[name] = kept.get(key, self._views[key])
                case HeldBy(kind):
                    digest = self._digest(need, incoming)
                    holder = None if digest is None else self._streams.holder(attempt, digest)
                    stream = (kind.__name__, tenant, str(holder))
                    arguments[name] = None if holder is None else self._streams.state(attempt, stream)
                case _:
                    plain = now if need == NOW else ids if need == NEW_ID else metadata_of(incoming.envelope)
                    arguments[name] = plain
        return arguments

    # -- save -------------------------------------------------------------------------------------------------------

    async def save(self, tx: Connection, writes: Writes) -> None:
        """Write views, aggregates, events, claims and outbox."""
        if self._kept:
            await self._save_views(writes)
        await self._streams.save(tx, writes)

    async def _save_views(self, writes: Writes) -> None:
        keys = sorted(self._kept, key=lambda key: (key[0].__name__, *key[1:]))
        views = [self._views[key] for key in keys]
        subjects = {
            self._codec.state_subject(key[1], view) for key, view in zip(keys, views, strict=True)
        } - {None}
        await self._codec.vault.warm([subject for subject in subjects if subject is not None], create=True)
        writes.add(
            """UPDATE locals l SET state = n.state::json, shape = n.shape
               FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[]) AS n (view, tenant, key, state, shape)
               WHERE (l.view, l.tenant, l.key) = (n.view, n.tenant, n.key)""",
            [key[0].__name__ for key in keys],
            [key[1] for key in keys],
            [key[2] for key in keys],
            [self._codec.dump_state(key[1], view) for key, view in zip(keys, views, strict=True)],
            [shape_of(key[0]) for key in keys],
        )


def _text(incoming: Incoming, field: str) -> str | None:
    """Give a field of a message as the text that keys are made of."""
    if field == incoming.contract.key:
        return incoming.key
    value = getattr(incoming.message, field)
    return None if value is None else str(value)


def _stream_keys(plan: Plan, incoming: Incoming) -> Iterator[StreamKey]:
    tenant = incoming.envelope.tenant
    for kind, field in plan.streams:
        text = _text(incoming, field)
        if text is not None:
            yield (kind, tenant, text)


def _view_keys(views: Iterable[ViewOf], incoming: Incoming) -> Iterator[LocalKey]:
    for view in views:
        text = _text(incoming, view.field)
        if text is not None:
            yield (view.kind, incoming.envelope.tenant, text)


def _reshaped(kind: type[Local], row: Stored) -> str:
    """Give a stored view as its class is now: what it has lost is left out, what is new begins at its default.

    Unlike an aggregate it cannot be folded anew here, as its facts belong to others.
    """
    text: str = row["state"]
    if row["shape"] == shape_of(kind):
        return text
    return to_json(
        {name: value for name, value in from_json(text).items() if name in kind.model_fields}
    ).decode()
