"""Measures in a home of its own, `<home>/bench`: `python -m tests.benchmarks [CASE...]`, which is `triplane bench`.

Its tables and inboxes are emptied again and again, so it never uses servers that the environment names.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

import psutil
import structlog

from infra.cli.errors import Code
from infra.embedded import EmbeddedError
from infra.embedded.alone import alone
from infra.embedded.lock import HomeTaken, holder, locked
from infra.embedded.process import ROOT, surroundings
from infra.errors import TriplaneError
from infra.settings import Settings, SettingsError, home_path
from tests.benchmarks.cases import CASES
from tests.benchmarks.harness import WrongAnswer, measure
from tests.benchmarks.report import lines
from tests.benchmarks.site import Site

ELSEWHERE: Final = frozenset({"TRIPLANE_HOME", "TRIPLANE_KAFKA", "TRIPLANE_POSTGRES", "TRIPLANE_MASTER_KEY"})
"""What would lead to servers that are not the benchmark's."""


async def bench(names: Sequence[str], site: Site, events: int | None, repeat: int) -> dict[str, Any]:
    """Run cases one after the other, and print each one's table; raises `WrongAnswer` at the first that is wrong."""
    await site.open()
    found = []
    for name in sorted(names or CASES, key=lambda name: not CASES[name].fresh):
        case = CASES[name]
        result = await measure(case, site, events or case.events, repeat, _say)
        found.append(result)
        for line in lines(result):
            _say(line)
    return {"commit": _commit(), "machine": await _machine(site), "repeat": repeat, "cases": found}


async def _machine(site: Site) -> dict[str, Any]:
    version, fsync, synchronous = await site.row(
        "SELECT current_setting('server_version'), current_setting('fsync'), current_setting('synchronous_commit')"
    )
    return {
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(psutil.virtual_memory().total / 1e9),
        "system": platform.platform(),
        "python": platform.python_version(),
        "postgres": version,
        "fsync": fsync,
        "synchronous_commit": synchronous,
    }


def _commit() -> str | None:
    """Name the commit that is measured; `+` says that the tree differs from it."""
    git = shutil.which("git")
    if git is None:
        return None
    head = subprocess.run([git, "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    changed = subprocess.run(
        [git, "status", "--porcelain"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return None if head.returncode else head.stdout.strip() + ("+" if changed.stdout.strip() else "")


def _say(line: str) -> None:
    print(line, flush=True)


@contextmanager
def servers(place: Path, software: Path) -> Generator[Settings]:
    """Use the servers that run in `place`, or start new ones; whatever else the environment names is left alone.

    `HomeTaken` where somebody measures there already.
    """
    environment = {name: text for name, text in surroundings().items() if name not in ELSEWHERE}
    with ExitStack() as stack:
        stack.enter_context(locked(place / "measuring"))
        if holder(place) is None:
            stack.enter_context(alone(place, software, _say, environment))
        with patch.dict(os.environ, environment, clear=True):
            settings = Settings.load(place)
        yield settings


def main() -> int:
    """Measure, and write the figures where they are wanted; a wrong answer fails the run."""
    parser = argparse.ArgumentParser(prog="triplane bench")
    parser.add_argument("cases", nargs="*", metavar="CASE")
    parser.add_argument("--events", type=int)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    unknown = [name for name in given.cases if name not in CASES]
    if unknown:
        print(f"triplane: unknown case {unknown[0]!r}; known: {', '.join(CASES)}", file=sys.stderr)
        return Code.USAGE
    if given.json is not None and (given.json.is_dir() or not given.json.parent.is_dir()):
        print(f"triplane: --json {given.json}: name a file in a directory that exists", file=sys.stderr)
        return Code.USAGE
    try:
        with servers(home_path() / "bench", home_path() / "software") as settings:
            figures = asyncio.run(bench(given.cases, Site(settings), given.events, given.repeat))
    except (WrongAnswer, TriplaneError, EmbeddedError, SettingsError) as wrong:
        print(f"triplane: {wrong}", file=sys.stderr)
        return Code.FAILED
    except HomeTaken as taken:
        print(
            f"triplane: {taken}: it measures already; two at once would disturb each other", file=sys.stderr
        )
        return Code.REFUSED
    except KeyboardInterrupt:
        return Code.INTERRUPTED
    if given.json is not None:
        given.json.write_text(json.dumps(figures, indent=1) + "\n", "utf-8")
    return Code.DONE


if __name__ == "__main__":
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    sys.exit(main())
