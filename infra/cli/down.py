"""`triplane down`: the platform of a home is stopped when it returns."""

from __future__ import annotations

import asyncio
import os
import signal
import time

import typer

from infra.cli.errors import CommandError
from infra.embedded.lock import holder, locked
from infra.embedded.process import reap
from infra.settings import home_path

PATIENCE = 90.0
"""Seconds: the supervisor's own patience with each stage of its children, and some."""

commands = typer.Typer()


@commands.command()
def down() -> None:
    """Stop this home's `up`, and whatever a killed one left behind."""
    home = home_path()
    pid = holder(home)
    if pid is None:
        if not home.exists():
            typer.echo(f"nothing is running in {home}")
            return
        with locked(home):
            left = asyncio.run(reap(home))
        typer.echo(
            f"stopped {left} processes that an earlier run left behind"
            if left
            else f"nothing is running in {home}"
        )
        return
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + PATIENCE
    while holder(home) is not None:
        if time.monotonic() > deadline:
            msg = f"process {pid} has not stopped within {PATIENCE:.0f} s: look into {home / 'logs'}, or end it with `kill -9 {pid}`"
            raise CommandError(msg)
        time.sleep(0.1)
    typer.echo("stopped")
