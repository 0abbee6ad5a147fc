"""How a projection is folded: rows are loaded once, folded in memory, written once a batch.

A row that is reached from many partitions, which the checkpoints do not serialise, is locked by its own key; an absent one
cannot be: it is inserted, and whoever comes second reads it anew. A row that one partition alone reaches needs no lock: the
checkpoint's is enough.

In a large batch, rows of the first kind come last: they are locked, folded and written when all else has been, so that
other processes wait for as little as possible.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Final, NoReturn
from uuid import UUID

from infra.errors import TriplaneError
from infra.postgres.database import Connection
from infra.postgres.writes import Writes
from infra.runtime.catalog import FoldWiring, ProjectionWiring
from infra.runtime.catalog.signatures import META, NOW, Signature
from infra.runtime.consuming.batch import BREATHE_EVERY, Outrun, outrun
from infra.runtime.folding.injection import metadata_of
from infra.runtime.folding.read_models import ReadModel
from infra.runtime.folding.rows import dump_rows, load_rows
from infra.runtime.messages.codec import Codec, Incoming
from projections import Row

RowKey = tuple[Any, ...]
"""The tenant and the key columns."""
LARGE: Final = 500
"""From so many messages on, a shorter lock is worth some round trips more."""
TRIES: Final = 5


@dataclass(slots=True, eq=False)
class Cell:
    """One row in the hands of a batch."""

    key: RowKey
    columns: Any
    """The key columns without the tenant: of several a tuple, of a single one the bare value."""
    stored: bool = False
    """Whether its table has it."""
    row: Row | None = None
    changed: bool = False


Reach = list[tuple[Signature, Callable[[Row], Any], Cell]]
"""The rows that one message is folded into: by which function, and what gives such a row's key columns."""


class WrongRow(TriplaneError):
    """A projection function returned a row of another key than the one it was given."""


class FoldedTooLate(TriplaneError):
    """A function raised when other rows had been written: in the smaller parts of the batch all is folded first."""


class Projecting:
    """One batch of a projection's consumer."""

    def __init__(self, wiring: ProjectionWiring, models: dict[type[Row], ReadModel], codec: Codec) -> None:
        """Fold into the tables that `models` describes."""
        self._wiring = wiring
        self._models = models
        self._codec = codec
        self._cells: dict[type[Row], dict[RowKey, Cell]] = {kind: {} for kind in wiring.rows}
        self._last: frozenset[type[Row]] = frozenset()
        """What is locked, folded and written last."""
        self._reach: dict[int, Reach] = {}
        self._folded: list[Incoming] = []

    def keys(self, incoming: Incoming) -> tuple[str, ...]:
        """Name the rows that a message reaches."""
        return tuple(
            ":".join((self._models[fold.row].view, *map(str, _key_of(fold)(incoming))))
            for fold in self._wiring.folds[incoming.contract.name]
        )

    async def load(self, tx: Connection, batch: Sequence[Incoming]) -> None:
        """Load the rows of a batch, table by table, in key order; lock those that others may reach."""
        if len(batch) >= LARGE:
            self._last = self._wiring.shared
        first = self._cells.keys() - self._last
        self._reach = dict(zip(map(id, batch), self._reached(batch, first), strict=True))
        await self._load(tx, first)

    def _reached(self, batch: Sequence[Incoming], kinds: Collection[type[Row]]) -> list[Reach]:
        """Find the rows of some kinds that each message is folded into."""
        folds = {
            name: [
                (fold.signature, _key_of(fold), self._models[fold.row].key_of, self._cells[fold.row])
                for fold in self._wiring.folds[name]
                if fold.row in kinds
            ]
            for name in {incoming.contract.name for incoming in batch}
        }
        reached: list[Reach] = []
        for incoming in batch:
            mine: Reach = []
            for signature, key_of, columns_of, cells in folds[incoming.contract.name]:
                key = key_of(incoming)
                if None in key:
                    continue
                cell = cells.get(key)
                if cell is None:
                    cell = cells[key] = Cell(key, key[1] if len(key) == 2 else key[1:])
                mine.append((signature, columns_of, cell))
            reached.append(mine)
        return reached

    async def _load(self, tx: Connection, kinds: Collection[type[Row]]) -> None:
        for kind in self._in_order(kinds):
            cells = self._cells[kind]
            if not cells:
                continue
            model = self._models[kind]
            keys = list(cells)
            stored = await (model.find(tx, keys) if kind in self._wiring.owned else model.lock(tx, keys))
            for key, row in await load_rows(self._codec, model, stored):
                cell = cells[key]
                cell.stored, cell.row = True, row

    def _in_order(self, kinds: Collection[type[Row]]) -> list[type[Row]]:
        return sorted(kinds, key=lambda kind: self._models[kind].view)

    def fold(self, incoming: Incoming) -> None:
        """Fold one event into every row that it reaches; all of them, or none."""
        self._fold(incoming, self._reach[id(incoming)])
        self._folded.append(incoming)

    def _fold(self, incoming: Incoming, reached: Reach) -> None:
        before: list[tuple[Cell, Row | None, bool]] = []
        message = incoming.message
        try:
            for signature, columns_of, cell in reached:
                row = cell.row
                after: Row | None = (
                    signature.function(message, row, **_injected(signature, incoming))
                    if signature.needs
                    else signature.function(message, row)
                )
                if after is not None and columns_of(after) != cell.columns:
                    self._refuse_other_key()
                before.append((cell, row, cell.changed))
                cell.row, cell.changed = after, True
        except Exception:
            for cell, row, changed in reversed(before):
                cell.row, cell.changed = row, changed
            raise

    def _refuse_other_key(self) -> NoReturn:
        raise WrongRow(f"{self._wiring.name}: a row's key columns may not change; delete it and make another")

    async def save(self, tx: Connection, writes: Writes) -> None:
        """Write every changed row once, and take away deleted ones."""
        await self._write(writes, self._cells.keys() - self._last)
        if not self._last:
            return
        await writes.send(tx)
        last = self._reached(self._folded, self._last)
        for _ in range(TRIES):
            try:
                # All that has been written stays, where another process was first with one of these.
                async with tx.transaction():
                    await self._fold_last(tx, writes, last)
            except Outrun:
                self._forget_last()
            else:
                return
        raise Outrun(f"{self._wiring.name}: other processes make the same rows, {TRIES} times")

    async def _fold_last(self, tx: Connection, writes: Writes, last: Sequence[Reach]) -> None:
        await self._load(tx, self._last)
        for number, (incoming, reached) in enumerate(zip(self._folded, last, strict=True), 1):
            if number % BREATHE_EVERY == 0:
                await asyncio.sleep(0)
            try:
                self._fold(incoming, reached)
            except Exception as raised:
                raise FoldedTooLate(f"{self._wiring.name}: {raised!r}") from raised
        await self._write(writes, self._last)
        await writes.send(tx)

    def _forget_last(self) -> None:
        """Begin anew: the locks went with the savepoint, and others may do anything until these rows are looked at again."""
        for kind in self._last:
            for cell in self._cells[kind].values():
                cell.stored, cell.row, cell.changed = False, None, False

    async def _write(self, writes: Writes, kinds: Collection[type[Row]]) -> None:
        for kind in self._in_order(kinds):
            model = self._models[kind]
            cells = list(self._cells[kind].values())
            filled = [cell for cell in cells if cell.changed and cell.row is not None]
            fresh = [cell for cell in filled if not cell.stored]
            if kind not in self._wiring.owned:
                # One order for all: whoever inserts a row waits for whoever was first.
                fresh.sort(key=_sortable)
            writes.insert(model.target, await self._values(model, fresh), outrun)
            model.write(writes, await self._values(model, [it for it in filled if it.stored]))
            model.delete(writes, [cell.key for cell in cells if cell.stored and cell.row is None])

    async def _values(self, model: ReadModel, cells: Iterable[Cell]) -> list[tuple[Any, ...]]:
        return await dump_rows(self._codec, model, [(cell.key[0], cell.row) for cell in cells if cell.row])


def _key_of(fold: FoldWiring) -> Callable[[Incoming], RowKey]:
    """Give what reads the key of the row that a message is folded into: in C, as it is done for each message and row."""
    return attrgetter("envelope.tenant", *(f"message.{path}" for path in fold.paths))


def _injected(signature: Signature, incoming: Incoming) -> dict[str, Any]:
    return {
        name: metadata_of(incoming.envelope) if need == META else incoming.record.at
        for name, need in signature.needs.items()
        if need in {META, NOW}
    }


def _sortable(cell: Cell) -> tuple[str | int, ...]:
    """Put rows into one order for all processes: within a column all values are of one type."""
    return tuple([part.int if isinstance(part, UUID) else str(part) for part in cell.key])
