"""What is stored under a name of the code keeps that name: each is written down in `permanent_names.json`.

`./triplane test --accept` adds new names; one is taken out by hand, and only when nothing is stored under it any more.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from events import KeyMark, marked
from infra.kafka.admin import PARTITIONS
from infra.runtime.catalog import Catalog, discover
from infra.runtime.folding.read_models import read_model
from sagas import Ended

REQUIRED = "required"
FILE = Path(__file__).parent / "permanent_names.json"
NAMES: dict[str, dict[str, Any]] = json.loads(FILE.read_text("utf-8"))

WHY = {
    "consumers": (
        "positions, inbox and parked messages stay under the old name, and under the new one it would start anew: "
        "a projection or decider from the beginning of everything, a saga or outside effect at the end"
    ),
    "topics": "what was published stays in the topic of the old name, and nobody would read it",
    "aggregates": "streams and snapshots are stored under the class's name and key field: all of them would be empty",
    "claims": "the digests of claimed values are made with it: every value would be free to be claimed again",
    "local views": "they are stored under the class's name: all of them would be empty",
    "saga states": (
        "instances stand in a state by its name: those that do could not go on. A state that is no longer entered is kept "
        "with `@saga.superseded` and its `upcast`"
    ),
    "stored fields": (
        "saga states and local views are read as they were written, and a field that is unknown is refused. Leave the "
        "class as it was (a saga state with `@saga.superseded` and its `upcast`) and go on with another one"
    ),
    "read models": "analysts' SQL names the view",
    "columns": "analysts' SQL names the column",
}


def declared() -> dict[str, dict[str, Any]]:
    """Everything that is stored under a name of the code, with what else of it must not change."""
    catalog = discover()
    workers = catalog.workers.values()
    return {
        "consumers": {
            name: {"starts at": it.first_start, "schema": it.schema} for name, it in catalog.consumers.items()
        },
        "topics": dict.fromkeys(catalog.topics, f"{PARTITIONS} partitions"),
        "aggregates": {
            f"{it.name}.{state.name}": state.key for it in workers for state in it.aggregates.values()
        },
        "claims": {
            f"{it.name}.{state.name}.{claim}": "unique in its tenant"
            for it in workers
            for state in it.aggregates.values()
            for claim in state.claims
        },
        "local views": {
            f"{it.name}.{state.name}": state.key for it in workers for state in it.locals.values()
        },
        "saga states": {
            f"{it.saga.name}.{state}": "final" if issubclass(kind, Ended) else "in flight"
            for it in catalog.sagas.values()
            for state, kind in {**it.states, **it.past}.items()
        },
        "stored fields": stored_fields(catalog),
        "read models": {
            f"read.{view}": ", ".join(("tenant", *marked(row, KeyMark)))
            for it in catalog.projections.values()
            for row, view in it.rows.items()
        },
        "columns": {
            f"read.{view}.{column.name}": column.sql
            for it in catalog.projections.values()
            for row, view in it.rows.items()
            for column in read_model(row, view, generation=0).columns
        },
    }


def stored_fields(catalog: Catalog) -> dict[str, str]:
    """Name the fields of saga states and local views, and whether one may be missing in what is stored."""
    classes: dict[str, type[BaseModel]] = {
        f"{it.saga.name}.{state}": kind
        for it in catalog.sagas.values()
        for state, kind in {**it.states, **it.past}.items()
    }
    classes |= {
        f"{it.name}.{view.name}": view.model for it in catalog.workers.values() for view in it.locals.values()
    }
    return {
        f"{name}.{field}": REQUIRED if it.is_required() else "may be missing"
        for name, kind in classes.items()
        for field, it in kind.model_fields.items()
    }


def write_down_new() -> list[str]:
    """Add the names that are new; what is known stays as it is, so that a change to it is still noticed."""
    now = declared()
    new = [f"{kind}: {name}" for kind in WHY for name in now[kind] if name not in NAMES[kind]]
    if new:
        together = {kind: {**now[kind], **NAMES[kind]} for kind in WHY}
        FILE.write_text(json.dumps(together, indent=2) + "\n", "utf-8")
    return new


def broken(kind: str, known: dict[str, Any], now: dict[str, Any]) -> str | None:
    """Say which names are gone or mean something else, why that is bad and what to do; `None` when all is well."""
    gone = sorted(known.keys() - now.keys())
    if gone:
        return f"{kind}: {', '.join(gone)} is gone or has another name; {WHY[kind]}. Give it its name back."
    changed = [f"{name} was {it}, is {now[name]}" for name, it in known.items() if it != now[name]]
    if changed:
        return f"{kind}: {'; '.join(changed)}; what is stored was stored the old way. Put it back, or migrate what is stored."
    return None


@pytest.mark.parametrize("kind", WHY)
def test_no_name_is_changed(kind: str) -> None:
    wrong = broken(kind, NAMES[kind], declared()[kind])
    if wrong:
        pytest.fail(wrong, pytrace=False)


@pytest.mark.parametrize("kind", WHY)
def test_a_name_that_changes_is_noticed(kind: str) -> None:
    known = NAMES[kind]
    name = next(iter(known))
    renamed = {f"{it}_2" if it == name else it: known[it] for it in known}
    assert WHY[kind] in (broken(kind, known, renamed) or "")
    assert "stored the old way" in (broken(kind, known, {**known, name: "something else"}) or "")
    assert broken(kind, known, {**known, "another": "more"}) is None


def test_a_new_field_of_what_is_stored_may_be_missing_there() -> None:
    known = {*NAMES["saga states"], *NAMES["local views"]}
    new = {name: it for name, it in declared()["stored fields"].items() if name not in NAMES["stored fields"]}
    wrong = sorted(name for name, it in new.items() if it == REQUIRED and name.rpartition(".")[0] in known)
    assert not wrong, (
        f"{', '.join(wrong)} is new and required, but what is stored has no such field; give it a default"
    )


@pytest.mark.parametrize("kind", WHY)
def test_every_name_is_written_down(kind: str) -> None:
    new = {name: it for name, it in declared()[kind].items() if name not in NAMES[kind]}
    assert not new, (
        f"{kind}: {', '.join(new)}: is this its name for ever? Then write it down: ./triplane test --accept"
    )


def test_every_kind_is_there() -> None:
    assert list(NAMES) == list(WHY) == list(declared())
    assert all(
        NAMES[kind] for kind in ("consumers", "topics", "aggregates", "claims", "saga states", "read models")
    )
