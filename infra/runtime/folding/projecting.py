"""How a projection is folded: rows are locked by their own keys, folded in memory, written once a batch.

A row is reached from many partitions, which the checkpoints do not serialise; its lock does. An absent row is made a
skeleton first, and never seen: it is filled or deleted in the same transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from infra.errors import TriplaneError
from infra.postgres.database import Connection
from infra.runtime.catalog import FoldWiring, ProjectionWiring
from infra.runtime.catalog.signatures import META, NOW
from infra.runtime.folding.injection import metadata_of
from infra.runtime.folding.read_models import ReadModel
from infra.runtime.folding.rows import dump_rows, load_rows
from infra.runtime.messages.codec import Codec, Incoming
from projections import Row

RowKey = tuple[type[Row], tuple[Any, ...]]
"""The row class, and tenant with the key columns."""


class WrongRow(TriplaneError):
    """A projection function returned a row of another key than the one it was given."""


class Projecting:
    """One batch of a projection's consumer."""

    def __init__(self, wiring: ProjectionWiring, models: dict[type[Row], ReadModel], codec: Codec) -> None:
        """Fold into the tables that `models` describes."""
        self._wiring = wiring
        self._models = models
        self._codec = codec
        self._rows: dict[RowKey, Row | None] = {}
        self._changed: set[RowKey] = set()
        self._reach: dict[int, tuple[tuple[FoldWiring, RowKey], ...]] = {}

    def keys(self, incoming: Incoming) -> tuple[str, ...]:
        """Name the rows that a message reaches."""
        return tuple(
            f"{self._models[kind].view}:{':'.join(str(part) for part in key)}"
            for _, (kind, key) in self._reached(incoming)
        )

    def _reached(self, incoming: Incoming) -> tuple[tuple[FoldWiring, RowKey], ...]:
        """Give the functions that fold a message, each with the row that it folds it into."""
        known = self._reach.get(id(incoming))
        if known is None:
            folds = self._wiring.folds[incoming.contract.name]
            known = tuple((fold, self._key(fold, incoming)) for fold in folds)
            self._reach[id(incoming)] = known
        return known

    def _key(self, fold: FoldWiring, incoming: Incoming) -> RowKey:
        return fold.row, (incoming.envelope.tenant, *(_at(incoming.message, path) for path in fold.paths))

    async def load(self, tx: Connection, batch: Sequence[Incoming]) -> None:
        """Lock and load the rows of a batch, table by table, in key order."""
        wanted: dict[type[Row], set[tuple[Any, ...]]] = {}
        for incoming in batch:
            for _, (kind, key) in self._reached(incoming):
                if None not in key:
                    wanted.setdefault(kind, set()).add(key)
        for kind in sorted(wanted, key=lambda kind: self._models[kind].view):
            model = self._models[kind]
            missing = wanted[kind]
            while missing:
                found = await model.lock(tx, sorted(missing, key=_sortable))
                loaded = await load_rows(self._codec, model, found)
                for key, row in loaded.items():
                    self._rows[kind, key] = row
                # A row deleted while we waited for it is gone: make the skeleton again.
                missing = {key for key in missing if (kind, key) not in self._rows}

    def fold(self, incoming: Incoming) -> None:
        """Fold one event into every row that it reaches; all of them, or none."""
        staged: dict[RowKey, Row | None] = {}
        for fold, at in self._reached(incoming):
            if None in at[1]:
                continue
            before = staged[at] if at in staged else self._rows[at]
            injected = _injected(fold, incoming) if fold.signature.needs else {}
            after: Row | None = fold.signature.function(incoming.message, before, **injected)
            if after is not None and self._models[at[0]].key_of(at[1][0], after) != at[1]:
                raise WrongRow(
                    f"{self._wiring.name}: a row's key columns may not change; delete it and make another"
                )
            staged[at] = after
        self._rows |= staged
        self._changed |= staged.keys()

    async def save(self, tx: Connection) -> None:
        """Write every changed row once, and take away skeletons and deleted rows."""
        for kind in sorted({kind for kind, _ in self._rows}, key=lambda kind: self._models[kind].view):
            model = self._models[kind]
            filled = {key: row for (of, key), row in self._rows.items() if of is kind and row is not None}
            changed = sorted((key for key in filled if (kind, key) in self._changed), key=_sortable)
            gone = sorted(
                (key for (of, key), row in self._rows.items() if of is kind and row is None), key=_sortable
            )
            values = await dump_rows(self._codec, model, [(key[0], filled[key]) for key in changed])
            await model.write(tx, values)
            await model.delete(tx, gone)


def _injected(fold: FoldWiring, incoming: Incoming) -> dict[str, Any]:
    return {
        name: metadata_of(incoming.envelope) if need == META else incoming.record.at
        for name, need in fold.signature.needs.items()
        if need in {META, NOW}
    }


def _at(message: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        message = getattr(message, name)
    return message


def _sortable(key: tuple[Any, ...]) -> tuple[str, ...]:
    return tuple(str(part) for part in key)
