"""`triplane migrate`: brings schemas, roles, read models, topics and consumers to what the code declares."""

from __future__ import annotations

import asyncio

import typer

from infra.cli.errors import CommandError
from infra.errors import TriplaneError
from infra.logs import configure
from infra.settings import Settings

commands = typer.Typer()


@commands.command()
def migrate() -> None:
    """Do whatever is missing, and only that; safe to run at any time."""
    from infra.migrations.migrate import migrate as run
    from infra.runtime.catalog import discover

    configure("migrate")
    try:
        asyncio.run(run(Settings.load(), discover()))
    except TriplaneError as wrong:
        raise CommandError(str(wrong)) from wrong
