"""`triplane serve`: the HTTP API, which starts while database and broker are away and says so."""

from __future__ import annotations

import asyncio
import errno
import signal
import socket
from collections.abc import Generator
from contextlib import contextmanager
from typing import Annotated

import typer

from infra.cli.errors import CommandError
from infra.errors import TriplaneError
from infra.logs import configure
from infra.settings import Settings

commands = typer.Typer()

DRAIN_S = 15
"""How long requests in hand may take once the server is told to stop."""


@commands.command()
def serve(
    host: Annotated[
        str | None, typer.Option(help="Address to listen on; this machine only by default.")
    ] = None,
    port: Annotated[int | None, typer.Option(min=1, max=65_535, help="Port to listen on.")] = None,
) -> None:
    """Serve the HTTP API until told to stop."""
    import uvloop

    configure("serve")
    settings = Settings.load()
    listening = _listen(host or settings.http_host, port or settings.http_port)
    try:
        uvloop.run(_serve(settings, listening))
    except TriplaneError as wrong:
        raise CommandError(str(wrong)) from wrong


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as taken:
        listening.close()
        remedy = "stop that program, or set TRIPLANE_HTTP_PORT (or --port) to a free port"
        if taken.errno != errno.EADDRINUSE:
            remedy = "give an address of this machine, and a port above 1023 unless you are root"
        msg = f"cannot listen on {host}:{port} ({taken.strerror}): {remedy}"
        raise CommandError(msg) from taken
    return listening


async def _serve(settings: Settings, listening: socket.socket) -> None:
    import uvicorn

    from infra.http.app import create_app
    from infra.runtime import collector
    from infra.runtime.catalog import discover

    class Server(uvicorn.Server):
        @contextmanager
        def capture_signals(self) -> Generator[None]:
            """Leave signals to us: uvicorn would raise them again at the end, and a clean stop would look like a crash."""
            yield

    config = uvicorn.Config(
        create_app(settings, discover()),
        loop="none",
        http="httptools",
        log_config=None,
        access_log=False,
        server_header=False,
        # Who calls is told by the connection alone; no header can pretend otherwise.
        proxy_headers=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=DRAIN_S,
        backlog=1024,
    )
    server = Server(config)

    def stop() -> None:
        server.should_exit = True

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop)
    collector.freeze()
    await server.serve(sockets=[listening])
