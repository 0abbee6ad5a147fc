"""How a worker's deciders, adopters and local views are folded: one consumer, one transaction a batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from pydantic_core import from_json, to_json

from events import Erased
from handlers import Local
from infra.postgres.database import Connection
from infra.postgres.database import Row as Stored
from infra.runtime.catalog import DeciderWiring
from infra.runtime.catalog.signatures import META, NEW_ID, NOW, HeldBy, Of, Signature, ViewOf
from infra.runtime.folding.injection import Ids, flattened, metadata_of
from infra.runtime.folding.streams import Attempt, StreamKey, Streams
from infra.runtime.messages.codec import Codec, Incoming, shape_of
from infra.runtime.messages.delivery import Delivery

LocalKey = tuple[type[Local], str, str]
"""View, tenant, key."""


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

    def signatures(self, incoming: Incoming) -> tuple[Signature, ...]:
        """Give the functions that this message concerns, in order."""
        name = incoming.contract.name
        if incoming.record.inbound and incoming.contract.kind != "command":
            return (self._wiring.adopters[name],)
        return (*self._wiring.keepers.get(name, ()), *self._wiring.deciders.get(name, ()))

    def keys(self, incoming: Incoming) -> tuple[str, ...]:
        """Name the aggregates and kept views of a message."""
        tenant = incoming.envelope.tenant
        named = [f"{kind}:{tenant}:{key}" for kind, _, key in self._stream_keys(incoming)]
        named += [f"{view.__name__}:{tenant}:{key}" for view, _, key in self._kept_keys(incoming)]
        return tuple(dict.fromkeys(named)) or (f"{self._wiring.name}:{tenant}:{incoming.key}",)

    # -- load -------------------------------------------------------------------------------------------------------

    async def load(self, tx: Connection, batch: Sequence[Incoming]) -> None:
        """Lock claims, then aggregates, then views, each in order."""
        claims = {claim for incoming in batch for claim in self._claims(incoming)}
        holders = await self._streams.lock_claims(tx, claims) if claims else set[StreamKey]()
        keys = {key for incoming in batch for key in self._stream_keys(incoming)} | holders
        if keys:
            await self._streams.lock(tx, keys)
        if self._delivery.repeated:
            await self._streams.find_published(tx, self._delivery.scope, batch)
        kept = {key for incoming in batch for key in self._kept_keys(incoming)}
        await self._load_views(
            tx, kept, {key for incoming in batch for key in self._view_keys(incoming)} - kept
        )

    def _stream_keys(self, incoming: Incoming) -> Iterator[StreamKey]:
        tenant = incoming.envelope.tenant
        for signature in self.signatures(incoming):
            for need in signature.needs.values():
                if isinstance(need, Of):
                    value = getattr(incoming.message, need.field)
                    if value is not None:
                        yield (need.kind.__name__, tenant, str(value))
        # What the deciders publish about the message's own aggregate needs its lock, asked for or not.
        model = self._wiring.aggregates.get(incoming.contract.key)
        if model is not None and incoming.contract.context == self._wiring.name:
            yield (model.name, tenant, incoming.key)

    def _claims(self, incoming: Incoming) -> Iterator[tuple[bytes, str, str, str]]:
        for signature in self.signatures(incoming):
            for need in signature.needs.values():
                if isinstance(need, HeldBy):
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

    def _view_keys(self, incoming: Incoming) -> Iterator[LocalKey]:
        for signature in self.signatures(incoming):
            yield from self._views_of(signature, incoming)

    def _kept_keys(self, incoming: Incoming) -> Iterator[LocalKey]:
        if not incoming.record.inbound:
            for signature in self._wiring.keepers.get(incoming.contract.name, ()):
                yield from self._views_of(signature, incoming)

    def _views_of(self, signature: Signature, incoming: Incoming) -> Iterator[LocalKey]:
        for need in signature.needs.values():
            if isinstance(need, ViewOf):
                value = getattr(incoming.message, need.field)
                if value is not None:
                    yield (need.kind, incoming.envelope.tenant, str(value))

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
        for signature in self.signatures(incoming):
            arguments = self._arguments(signature, incoming, attempt, ids, now, kept)
            result = signature.function(**arguments)
            if isinstance(result, Local):
                (key,) = self._views_of(signature, incoming)
                kept[key] = result
                continue
            for message in flattened(result):
                self._streams.emit(attempt, self._delivery.scope, incoming, message, now)
        self._streams.merge(attempt)
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
                case ViewOf(kind, field):
                    value = getattr(incoming.message, field)
                    key = (kind, tenant, str(value))
                    arguments[name] = None if value is None else kept.get(key, self._views[key])
                case Of(kind, field):
                    value = getattr(incoming.message, field)
                    stream = (kind.__name__, tenant, str(value))
                    arguments[name] = None if value is None else self._streams.state(attempt, stream)
                case HeldBy(kind):
                    digest = self._digest(need, incoming)
                    holder = None if digest is None else self._streams.holder(attempt, digest)
                    stream = (kind.__name__, tenant, str(holder))
                    arguments[name] = None if holder is None else self._streams.state(attempt, stream)
                case _:
                    arguments[name] = {NOW: now, NEW_ID: ids, META: metadata_of(incoming.envelope)}[str(need)]
        return arguments

    # -- save -------------------------------------------------------------------------------------------------------

    async def save(self, tx: Connection) -> None:
        """Write views, aggregates, events, claims and outbox."""
        if self._kept:
            await self._save_views(tx)
        await self._streams.save(tx)

    async def _save_views(self, tx: Connection) -> None:
        keys = sorted(self._kept, key=lambda key: (key[0].__name__, *key[1:]))
        views = [self._views[key] for key in keys]
        subjects = {
            self._codec.state_subject(key[1], view) for key, view in zip(keys, views, strict=True)
        } - {None}
        await self._codec.vault.warm([subject for subject in subjects if subject is not None], create=True)
        await tx.execute(
            """UPDATE locals l SET state = n.state::json, shape = n.shape
               FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[]) AS n (view, tenant, key, state, shape)
               WHERE (l.view, l.tenant, l.key) = (n.view, n.tenant, n.key)""",
            [key[0].__name__ for key in keys],
            [key[1] for key in keys],
            [key[2] for key in keys],
            [self._codec.dump_state(key[1], view) for key, view in zip(keys, views, strict=True)],
            [shape_of(key[0]) for key in keys],
        )


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
