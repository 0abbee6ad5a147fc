"""`triplane bench`: how fast the platform is beside what else one would write, measured on this machine."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Annotated

import typer

from infra.embedded.process import ROOT, python, surroundings

commands = typer.Typer()


@commands.command()
def bench(
    cases: Annotated[list[str] | None, typer.Argument(help="`project`, ...; all of them by default.")] = None,
    events: Annotated[
        int | None, typer.Option(min=100, max=10_000_000, help="Scale every case to so many events.")
    ] = None,
    repeat: Annotated[int, typer.Option(min=1, help="How often every contestant runs.")] = 3,
    json: Annotated[Path | None, typer.Option(help="Write the figures into this file, too.")] = None,
) -> None:
    """Measure cases against their baselines, in turns, on servers of their own in `<home>/bench`.

    A contestant whose answer is wrong fails the run, however fast it is. A goal that is missed does not: the table says so, and the
    exit code is 0.
    """
    given = [*(cases or []), f"--repeat={repeat}"]
    given += [f"--events={events}"] if events is not None else []
    given += [f"--json={json.absolute()}"] if json is not None else []
    measured = subprocess.run(python("tests.benchmarks", *given), cwd=ROOT, env=surroundings(), check=False)
    raise typer.Exit(measured.returncode)
