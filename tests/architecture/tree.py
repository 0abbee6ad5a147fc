"""The files of the project, as these tests walk them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from infra.embedded.process import ROOT

PACKAGES = ("events", "handlers", "projections", "sagas", "infra")
TOP = (
    *PACKAGES,
    "tests",
    ".ci",
    ".gitignore",
    "LICENSE",
    "README.md",
    "pyproject.toml",
    "requirements.lock",
    "triplane",
)
"""What belongs to the project; whatever else lies beside it (a state home, caches, build results) does not."""


def files(*tops: str) -> Iterator[Path]:
    """Walk the files below `tops`; what tools leave there (caches, compiled modules) is passed over."""
    for top in tops:
        path = ROOT / top
        for found in [path] if path.is_file() else sorted(path.rglob("*")):
            below = found.relative_to(path).parts
            if found.is_file() and not any(part == "__pycache__" or part.startswith(".") for part in below):
                yield found


def modules(*packages: str) -> Iterator[tuple[str, Path]]:
    """Walk the Python modules of `packages`, each with its dotted name."""
    for path in files(*packages):
        if path.suffix == ".py":
            parts = path.relative_to(ROOT).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path
