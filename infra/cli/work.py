"""`triplane work`: runs consumers, sagas, projections and relays; any number of processes share them out."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from infra.cli.errors import Code, CommandError
from infra.errors import TriplaneError
from infra.logs import configure
from infra.settings import Settings

commands = typer.Typer()


@commands.command()
def work(
    names: Annotated[
        list[str] | None, typer.Argument(help="Consumers, contexts or relays; all of them by default.")
    ] = None,
) -> None:
    """Run consumers and relays until told to stop. Names: `workers`, `payments`, `sagas.activation`, `projections`, ..."""
    import uvloop

    from infra.runtime.running.workers import UnknownName

    configure("work")
    try:
        uvloop.run(_run(names or []))
    except UnknownName as unknown:
        raise CommandError(str(unknown), Code.USAGE) from unknown
    except TriplaneError as wrong:
        raise CommandError(str(wrong)) from wrong


async def _run(names: list[str]) -> None:
    import structlog

    from infra.kafka import application
    from infra.runtime.catalog import discover
    from infra.runtime.running.workers import Workers
    from infra.wiring import ports

    def ready() -> None:
        structlog.get_logger(__name__).info("working", names=names or ["everything"])

    settings = Settings.load()
    workers = Workers(settings, discover(), ports)

    async def run(stop: asyncio.Event) -> None:
        await workers.run(names, stop, ready)

    await application.run(settings.kafka, run)
