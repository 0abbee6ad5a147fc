"""`triplane test`: the checks and the tests, with a broker and a database of their own."""

from __future__ import annotations

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from infra.cli.errors import CommandError
from infra.embedded.alone import alone
from infra.embedded.process import ROOT, surroundings
from infra.settings import home_path

if TYPE_CHECKING:
    from collections.abc import Generator

PACKAGES = ["events", "handlers", "projections", "sagas", "infra", "tests"]

commands = typer.Typer()


@commands.command(
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []}
)
def test(
    arguments: Annotated[
        list[str] | None, typer.Argument(help="For pytest alone; without any, everything runs.")
    ] = None,
) -> None:
    """Run all checks and tests; with arguments, pytest with these. `--accept` takes new contracts and names as promised."""
    if arguments == ["--accept"]:
        accepted = subprocess.run([sys.executable, "-m", "tests.contracts.update"], cwd=ROOT, check=False)
        raise typer.Exit(accepted.returncode)
    home = home_path() / "test"
    with _servers(home, home_path() / "software") as environment:
        failed = [] if arguments else _checks(home, environment)
        caches = ["-o", f"cache_dir={home / 'pytest'}"]
        tests = subprocess.run(
            [sys.executable, "-m", "pytest", *caches, *(arguments or [])],
            cwd=ROOT,
            env=environment,
            check=False,
        )
    if failed:
        msg = f"failed: {', '.join(failed)} (their output is above the tests')"
        raise CommandError(msg)
    if tests.returncode:
        raise typer.Exit(1)


def _checks(home: Path, environment: dict[str, str]) -> list[str]:
    """Run every check, two at a time; the names of those that failed, after their output."""
    imports = str(Path(sys.executable).with_name("lint-imports"))
    checks = {
        "mypy": ["-m", "mypy", *PACKAGES],
        "pyright": ["-m", "pyright", "--pythonpath", sys.executable],
        "ruff": ["-m", "ruff", "check"],
        "ruff format": ["-m", "ruff", "format", "--check"],
        "import contracts": [imports, "--cache-dir", str(home / "imports")],
    }

    def run(name: str) -> str | None:
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, *checks[name]],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        typer.echo(f"{name}: {'failed' if done.returncode else 'passed'} in {time.monotonic() - began:.0f} s")
        if done.returncode:
            typer.echo(done.stdout + done.stderr)
        return name if done.returncode else None

    with ThreadPoolExecutor(2) as pool:
        return [name for name in pool.map(run, checks) if name]


@contextmanager
def _servers(home: Path, software: Path) -> Generator[dict[str, str]]:
    """The environment in which tests find their servers."""
    with alone(home, software, typer.echo) as endpoints:
        yield {
            **surroundings(),
            "TRIPLANE_HOME": str(home),
            "TRIPLANE_KAFKA": endpoints["kafka"],
            "TRIPLANE_POSTGRES": endpoints["postgres"],
            # what the tools keep belongs to the state home, too
            "HYPOTHESIS_STORAGE_DIRECTORY": str(home / "hypothesis"),
            "MYPY_CACHE_DIR": str(home / "mypy"),
            "RUFF_CACHE_DIR": str(home / "ruff"),
            "RUFF_OUTPUT_FORMAT": "concise",
            "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1",
        }
