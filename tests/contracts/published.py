"""Every version of every contract as it is published, to be held against the snapshots that are checked in.

A snapshot is one JSON file for each message type and version: the JSON Schema as the catalogue gives it, and what the
schema does not say (key, kind, who may send it, what is personal and whose).
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from events import PersonalMark, SubjectMark, marked
from infra.contracts.catalogue import catalogue
from infra.runtime.catalog import discover
from infra.runtime.catalog.signatures import key_field
from tests.contracts.compatibility import Change, compare

Snapshot = dict[str, Any]

SNAPSHOTS = Path(__file__).parent / "snapshots"
COMMAND = "python -m tests.contracts.update"


@cache
def published() -> dict[str, Snapshot]:
    """Describe every version of every contract, by the name of its snapshot: `payments.PaymentCompleted.v1`."""
    catalog = discover()
    schemas = {it["type"]: it["schemas"] for it in catalogue(catalog)["messages"]}
    return {
        f"{contract.name}.v{version}": {
            "type": contract.name,
            "version": version,
            "current": version == contract.current,
            "context": contract.context,
            "kind": contract.kind,
            "public": contract.public,
            "key": key_field(model),
            "personal": sorted(marked(model, PersonalMark)),
            "subject": next(iter(marked(model, SubjectMark)), None),
            "schema": schemas[contract.name][str(version)],
        }
        for contract in catalog.contracts.values()
        for version, model in sorted(contract.versions.items())
    }


def recorded(directory: Path = SNAPSHOTS) -> dict[str, Snapshot]:
    """Read the snapshots that are checked in, by name."""
    return {path.stem: json.loads(path.read_text("utf-8")) for path in sorted(directory.glob("*.json"))}


def write(name: str, snapshot: Snapshot, directory: Path = SNAPSHOTS) -> None:
    """Write one snapshot down, in an order that keeps differences small."""
    text = json.dumps(snapshot, indent=2, sort_keys=True, ensure_ascii=False)
    (directory / f"{name}.json").write_text(f"{text}\n", "utf-8")


def changes(before: Snapshot | None, after: Snapshot | None) -> list[Change]:
    """Say how a contract differs from its snapshot; without a snapshot it is new, without the contract it is gone."""
    if after is None:
        return [Change("contract", "is gone, or has another name", breaking=True)]
    if before is None:
        return [Change("contract", "is new", breaking=False)]
    return compare(before, after)


def complaint(name: str, before: Snapshot | None, after: Snapshot | None) -> str | None:
    """Say what is wrong with a contract and what to do about it; `None` when it is as its snapshot says."""
    found = changes(before, after)
    breaking = [change for change in found if change.breaking]
    if breaking:
        return f"{name} breaks what is published:\n{_listed(breaking)}\n{_remedy(before or {}, after)}"
    if found or before != after:
        return (
            f"{name} has changed without breaking anybody:\n{_listed(found)}\n"
            f"Run: {COMMAND}\nand check the snapshot in with the change."
        )
    return None


def _listed(found: list[Change]) -> str:
    return "\n".join(f"  - {change}" for change in found)


def _remedy(before: Snapshot, after: Snapshot | None) -> str:
    version, kind = before["version"], before["type"].rpartition(".")[2]
    if after is None:
        return (
            "Messages of it are recorded, and read for ever: put the class back under its name. "
            "(One that was never released goes together with its snapshot, in the same change.)"
        )
    if not after["current"]:
        return (
            f"Version {version} is frozen: messages of it are recorded, and read for ever. Put it back as it was; "
            "what becomes of it today is the business of its `upcast`."
        )
    return (
        f"Put version {version} back, or make the change in a new one: keep the class as it was as\n"
        f'    class {kind}V{version}(Past, of="{kind}", version={version}), with its `upcast` to the next version,\n'
        f"change `{kind}` and declare it with version={version + 1}; record messages of version {version + 1} in "
        f"tests/contracts/recorded\nif it is public, and run: {COMMAND}"
    )
