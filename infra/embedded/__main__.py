"""Runs the embedded broker and database alone, for tests and benchmarks.

`python -m infra.embedded HOME SOFTWARE [fresh]`; with `fresh`, what an earlier run left in them is deleted. Where standard
input is a pipe, its end is the end: whoever held the other one is gone.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import stat
import sys
from pathlib import Path

from infra.embedded import EmbeddedError
from infra.embedded.files import write_atomically
from infra.embedded.lock import HomeTaken, locked
from infra.embedded.process import reap
from infra.embedded.secrets import ensure_secrets
from infra.embedded.servers import Servers
from infra.embedded.supervisor import Supervisor


async def main(home: Path, software: Path, *, fresh: bool) -> None:
    """Start both, write the addresses into the home, say `ready`, wait for a sign to stop, stop both."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    if stat.S_ISFIFO(os.fstat(sys.stdin.fileno()).st_mode):
        asyncio.get_running_loop().add_reader(sys.stdin, stop.set)
    secrets = ensure_secrets(home)
    await reap(home)
    if fresh:
        for data in ("kafka", "postgres"):
            shutil.rmtree(home / data, ignore_errors=True)

    def report(name: str, news: str) -> None:
        print(f"{name}: {news}", flush=True)

    supervisor = Supervisor(home, report)
    try:
        servers = Servers(home, software, secrets["postgres_password"], supervisor, report)
        endpoints = await servers.prepare()
        await servers.start()
        write_atomically(home / "endpoints.json", json.dumps(endpoints))
        print("ready", flush=True)
        await stop.wait()
    finally:
        await supervisor.stop()


if __name__ == "__main__":
    place, jars = (Path(argument).resolve() for argument in sys.argv[1:3])
    try:
        with locked(place):
            asyncio.run(main(place, jars, fresh=sys.argv[3:] == ["fresh"]))
    except (EmbeddedError, HomeTaken) as error:
        sys.exit(str(error))
