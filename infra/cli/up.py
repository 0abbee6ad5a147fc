"""`triplane up`: the whole platform in the foreground, from nothing to addresses that answer."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import typer

from infra.cli.progress import Progress
from infra.cli.status import processes
from infra.embedded.lock import locked
from infra.embedded.platform import Platform
from infra.settings import home_path

commands = typer.Typer()


@commands.command()
def up() -> None:
    """Set up what is missing, and run everything until Ctrl-C. `triplane down` stops it from elsewhere."""
    home = home_path()
    with locked(home):
        os.umask(0o077)
        progress = Progress()
        asyncio.run(_up(home, Platform(home, progress), progress))


async def _up(home: Path, platform: Platform, progress: Progress) -> None:
    told_to_stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, told_to_stop.set)
    starting = asyncio.create_task(platform.start())
    stopping = asyncio.create_task(told_to_stop.wait())
    try:
        await asyncio.wait([starting, stopping], return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            await starting
            for name, address in processes(home)["endpoints"].items():
                progress.line(f"  {name:<10} {address}")
            progress.line(f"the database's password is in {home / 'endpoints.json'}")
            progress.line("stop it with Ctrl-C, or `triplane down` from elsewhere")
            await stopping
        else:
            starting.cancel()
            await asyncio.wait([starting])
    finally:
        await platform.stop()
