"""The outside of the lanes: takes calls over a socket, answers each after 10 ms, and keeps a log of what it was asked.

`python -m tests.benchmarks.outside`. A line `id key number` is answered with `id`; `log` with everything that was called
since, as (key, number, began, ended), which is then forgotten.
"""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import uvloop

from infra.settings import home_path

CALL_S: Final = 0.010
SOCKET: Final = "outside.sock"
LINE: Final = 1 << 26

Called = tuple[str, int, float, float]


def place() -> Path:
    """Say where the outside of this home listens."""
    return home_path() / SOCKET


class Client:
    """A connection over which any number of calls are made at once."""

    def __init__(self, path: Path | None = None) -> None:
        """Call the outside at `path`, that of this home by default."""
        self._path = path or place()
        self._waiting: dict[str, asyncio.Future[bytes]] = {}
        self._number = 0
        self._connecting = asyncio.Lock()
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None]

    async def __aenter__(self) -> Self:
        """Connect."""
        await self._connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Hang up."""
        if self._writer is not None:
            self._reading.cancel()
            self._writer.close()

    async def call(self, key: object, number: int) -> None:
        """Make a call, and wait for its answer."""
        self._number += 1
        await self._ask(f"{self._number}", f"{key} {number}")

    async def log(self) -> list[Called]:
        """Ask what was called."""
        return [tuple(it) for it in json.loads(await self._ask("log", ""))]

    async def _ask(self, name: str, what: str) -> bytes:
        if self._writer is None:
            await self._connect()
        assert self._writer is not None
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting[name] = future
        self._writer.write(f"{name} {what}\n".encode())
        return await future

    async def _connect(self) -> None:
        async with self._connecting:
            if self._writer is None:
                reader, self._writer = await asyncio.open_unix_connection(self._path, limit=LINE)
                self._reading = asyncio.create_task(self._read(reader))

    async def _read(self, reader: asyncio.StreamReader) -> None:
        while line := await reader.readline():
            name, _, answer = line.rstrip(b"\n").partition(b" ")
            self._waiting.pop(name.decode()).set_result(answer)


async def serve() -> None:
    """Answer until the process is told to end."""
    called: list[Called] = []

    async def serve_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()

        def answered(name: str, key: str, number: int, began: float) -> None:
            called.append((key, number, began, time.monotonic()))
            writer.write(f"{name}\n".encode())

        while line := await reader.readline():
            name, _, what = line.decode().rstrip("\n").partition(" ")
            if name == "log":
                writer.write(b"log " + json.dumps(called).encode() + b"\n")
                called.clear()
            else:
                key, number = what.split()
                loop.call_later(CALL_S, answered, name, key, int(number), time.monotonic())

    place().unlink(missing_ok=True)
    async with await asyncio.start_unix_server(serve_one, place(), limit=LINE) as server:
        print("ready", flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve())
