"""What the code imports is declared, and what is declared is locked by hash alone."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

from infra.embedded.process import ROOT

OURS = ["events", "handlers", "projections", "sagas", "infra"]
BESIDES = {"pydantic-core"}
"""Comes with another one, as part of its public face."""


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", re.split(r"[\[<>=;~! ]", name)[0]).lower()


def imported(packages: list[str]) -> set[str]:
    """The distributions that these packages' modules import."""
    found: set[str] = set()
    for path in (path for package in packages for path in (ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.partition(".")[0])
    known = packages_distributions()
    foreign = found - set(sys.stdlib_module_names) - {*OURS, "tests"}
    return {normalised(known.get(module, [module])[0]) for module in foreign}


def declared() -> tuple[set[str], set[str]]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    runtime, tests = project["dependencies"], project["optional-dependencies"]["test"]
    return {normalised(name) for name in runtime}, {normalised(name) for name in runtime + tests}


def test_every_import_is_a_declared_dependency() -> None:
    runtime, everything = declared()
    assert imported(OURS) - BESIDES <= runtime
    assert imported(["tests"]) - BESIDES <= everything


def test_the_lock_files_agree_and_name_no_address() -> None:
    locks = [Path(ROOT, name).read_text("utf-8") for name in ("requirements.lock", "tests/requirements.lock")]
    pins = [{line.split()[0] for line in lock.splitlines() if "==" in line} for lock in locks]
    assert pins[0] <= pins[1]
    for lock, names in zip(locks, declared(), strict=True):
        assert "://" not in lock
        assert {normalised(name) for name in names} <= {
            normalised(pin) for pin in re.findall(r"^[^ #=]+(?===)", lock, re.MULTILINE)
        }
        assert all(
            "--hash=sha256:" in pin for pin in re.split(r"^(?=[a-z0-9])", lock, flags=re.MULTILINE)[1:]
        )
