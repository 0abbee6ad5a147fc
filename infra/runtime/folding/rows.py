"""Rows of read models between memory and their tables: personal columns are sealed on the way out, unsealed on the way in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import itemgetter
from typing import Any

from events import Erased, erased
from infra.postgres.database import Row as Stored
from infra.runtime.folding.read_models import ReadModel
from infra.runtime.messages.codec import Codec, Seal
from projections import Row


async def load_rows(
    codec: Codec, model: ReadModel, stored: Sequence[Stored]
) -> list[tuple[tuple[Any, ...], Row]]:
    """Read rows of a read model, each with its primary key."""
    keys = itemgetter(*model.primary_key)
    if model.values_of is not None:
        names = [column.name for column in model.columns]
        values = itemgetter(*names)
        several = len(names) > 1
        return [
            (keys(row), _made(model.row, names, values(row) if several else (values(row),))) for row in stored
        ]
    seal = codec.state_seal(model.row)
    data = [(row["tenant"], model.to_data(row)) for row in stored]
    if seal is not None:
        await codec.vault.warm({seal.subject_in(tenant, it) for tenant, it in data}, create=False)
        data = [(tenant, _unsealed(codec, seal, tenant, it)) for tenant, it in data]
    return [
        (keys(row), _made(model.row, it.keys(), it.values()))
        for row, (_, it) in zip(stored, data, strict=True)
    ]


def _made(kind: type[Row], names: Iterable[str], values: Iterable[Any]) -> Row:
    """Make a row of values that were validated when they were written: what `model_construct` does, several times faster."""
    row = kind.__new__(kind)
    object.__setattr__(row, "__dict__", dict(zip(names, values, strict=True)))
    object.__setattr__(row, "__pydantic_fields_set__", set(names))
    object.__setattr__(row, "__pydantic_extra__", None)
    object.__setattr__(row, "__pydantic_private__", None)
    return row


def _unsealed(codec: Codec, seal: Seal, tenant: str, data: dict[str, Any]) -> dict[str, Any]:
    opened = seal.open(codec.vault, tenant, data)
    return {name: erased if value == {"erased": True} else value for name, value in opened.items()}


async def dump_rows(codec: Codec, model: ReadModel, rows: Sequence[tuple[str, Row]]) -> list[tuple[Any, ...]]:
    """Write rows, each `(tenant, row)`, as values in column order, the tenant first."""
    plain = model.values_of
    if plain is not None:
        return [(tenant, *plain(row)) for tenant, row in rows]
    seal = codec.state_seal(model.row)
    if seal is not None:
        subjects = {
            subject for tenant, row in rows if (subject := codec.state_subject(tenant, row)) is not None
        }
        await codec.vault.warm(subjects, create=True)
    values = []
    for tenant, row in rows:
        data = dict(row)
        if seal is not None:
            for name in seal.fields:
                if isinstance(data[name], Erased):
                    data[name] = {"erased": True}
            data = seal.close(codec.vault, tenant, data)
        values.append((tenant, *model.row_values(data)))
    return values
