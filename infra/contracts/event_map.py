"""The map of who sends what to whom, drawn for Mermaid: one arrow for each pair, with the messages on it."""

from __future__ import annotations

from typing import Final

from infra.contracts.catalogue import listeners, publishers
from infra.runtime.catalog import Catalog

MOST: Final = 4
"""Messages written on one arrow; the rest is counted."""


def event_map(catalog: Catalog) -> str:
    """Draw the map. Effects are drawn with the context that they belong to, sagas' own news is left out."""
    by, to = publishers(catalog), listeners(catalog)
    arrows: dict[tuple[str, str], list[str]] = {}
    for name, contract in catalog.contracts.items():
        if contract.context in {"sagas", "operations"} or contract.kind == "refusal":
            continue
        for source in sorted({_group(it) for it in by[name]}):
            for target in sorted({_group(it) for it in to[name]}):
                outside = source in {"upstream", "webhooks"}
                if source != target and (not outside or target == contract.context):
                    arrows.setdefault((source, target), []).append(contract.model.__name__)
    # A fact that upstream sends reaches others through the context that adopts it.
    nodes = [
        [f"{_node(name)}[/{name}/]" for name in ("upstream", "webhooks")],
        [f"{_node(name)}[{name}]" for name in catalog.contexts],
        [f"{_node(name)}{{{{{it.saga.name}}}}}" for name, it in catalog.sagas.items()],
        [f"{_node(name)}[({it.projection.name})]" for name, it in catalog.projections.items()],
    ]
    lines = ["flowchart LR", *(f"  {'; '.join(of_kind)}" for of_kind in nodes if of_kind)]
    lines += [
        f"  {_node(source)} -- {_label(names)} --> {_node(target)}"
        for (source, target), names in sorted(arrows.items())
    ]
    return "\n".join(lines) + "\n"


def _group(name: str) -> str:
    head = name.partition(".")[0]
    return name if head in {"sagas", "projections"} else head


def _node(name: str) -> str:
    return name.replace(".", "_")


def _label(names: list[str]) -> str:
    shown = names[:MOST]
    rest = len(names) - len(shown)
    return '"' + "<br/>".join([*shown, *([f"and {rest} more"] if rest else [])]) + '"'
