"""No module is dead: each one under `infra` is imported, however far down, by something that is really run."""

from __future__ import annotations

from functools import cache
from typing import Any

import grimp

from infra.cli.app import modules as commands
from tests.architecture.tree import PACKAGES, modules

ENTRIES = {
    "infra.cli.__main__": "python -m infra.cli, and the console script",
    **{f"infra.cli.{name}": "a command, which the application loads by its name" for name in commands()},
    "infra.demo.upstream": "the demo's publisher, a process of its own that imports nothing of the platform",
    "infra.embedded.__main__": "the servers alone, for tests",
    "infra.embedded.gate": "a process that waits for its turn, by `python -m`",
    "infra.embedded.install": "the first start, by the bootstrap script",
    "infra.embedded.launch": "every child process, by path",
    "infra.embedded.stripe.__main__": "the simulator's process",
    "infra.migrations.env": "Alembic, by path",
    "infra.runtime.operating.helping": "a further process of a rebuild, by `python -m`",
}
LOADED_BY_PATH = "infra.migrations.versions."
"""Alembic runs every file there is."""


@cache
def graph() -> Any:
    """Who imports whom; imports for type checkers alone lead nowhere."""
    return grimp.build_graph(*PACKAGES, exclude_type_checking_imports=True, cache_dir=None)


def unreached(entries: list[str]) -> set[str]:
    """Name the modules that none of `entries` leads to."""
    reached: set[str] = set()
    waiting = list(entries)
    while waiting:
        module = waiting.pop()
        if module in reached:
            continue
        reached.add(module)
        if "." in module:
            # Whoever imports a module runs the packages around it.
            waiting.append(module.rpartition(".")[0])
        waiting += graph().find_modules_directly_imported_by(module)
    return {name for name, _ in modules("infra") if not name.startswith(LOADED_BY_PATH)} - reached


def test_every_module_is_reached() -> None:
    assert not unreached(list(ENTRIES)), (
        "nothing runs these: import them where they are of use, or take them away"
    )


def test_every_entry_is_there_and_needed() -> None:
    names = {name for name, _ in modules("infra")}
    assert set(ENTRIES) <= names
    for entry in ENTRIES:
        if entry.startswith("infra.cli."):
            continue
        assert unreached([it for it in ENTRIES if it != entry]), f"{entry} is reached without being an entry"
