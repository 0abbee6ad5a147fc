"""A simulator in a process of its own, and somebody who takes its webhooks."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import stripe

from infra.stripe.webhooks import API_VERSION

KEY = "sk_test_0123456789"
SECRET = "whsec_of_the_tests"


def free_port() -> int:
    """Give a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def http() -> httpx.AsyncClient:
    """Give a client without what costs most: looking for certificates and proxies."""
    return httpx.AsyncClient(trust_env=False, verify=False, timeout=15)  # noqa: S501 - plain HTTP on loopback


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = 20) -> None:
    """Wait until it is so."""
    async with asyncio.timeout(seconds):
        while not await condition():
            await asyncio.sleep(0.05)


class Simulator:
    """`python -m infra.embedded.stripe` on a database of its own."""

    def __init__(self, database: str, home: Path) -> None:
        """Prepare to run on the database URI `database`."""
        self.database = database
        self.port = free_port()
        self.hooks_port = free_port()
        self.base = f"http://127.0.0.1:{self.port}"
        self._home = home
        self._environment = {
            **os.environ,
            "TRIPLANE_HOME": str(home),
            "TRIPLANE_POSTGRES": database,
            "TRIPLANE_KAFKA": "127.0.0.1:9",
            "TRIPLANE_HTTP_PORT": str(self.hooks_port),
            "TRIPLANE_MASTER_KEY": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
            "STRIPE_API_KEY": KEY,
            "STRIPE_WEBHOOK_SECRET": SECRET,
        }

    def start(self) -> None:
        """Start, and wait until it answers."""
        command = [sys.executable, "-m", "infra.embedded.stripe", "--port", str(self.port)]
        with (self._home / "log").open("ab") as log:
            self._process = subprocess.Popen(command, env=self._environment, stdout=log, stderr=log)
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and self._process.poll() is None:
            with suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", self.port)):
                return
            time.sleep(0.05)
        raise AssertionError((self._home / "log").read_text())

    def kill(self) -> None:
        """Take its life at whatever it is doing."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """Ask it to end."""
        self._process.terminate()
        assert self._process.wait(10) == 0, (self._home / "log").read_text()

    async def control(self, method: str, path: str, **fields: Any) -> dict[str, Any]:
        """Use the paths that Stripe itself does not have."""
        async with http() as client:
            headers = {"Authorization": f"Bearer {KEY}"}
            answer = await client.request(
                method, f"{self.base}/simulator{path}", json=fields, headers=headers
            )
        assert answer.status_code == 200, answer.text
        body: dict[str, Any] = answer.json()
        return body

    async def fault(self, kind: str, **fields: Any) -> None:
        """Let requests fail."""
        await self.control("POST", "/faults", kind=kind, **fields)

    @asynccontextmanager
    async def sdk(self, retries: int = 0, key: str = KEY) -> AsyncGenerator[stripe.StripeClient]:
        """Give the official SDK."""
        transport = stripe.HTTPXClient(timeout=10)
        try:
            yield stripe.StripeClient(
                key,
                stripe_version=API_VERSION,
                base_addresses={"api": self.base},
                max_network_retries=retries,
                http_client=transport,
            )
        finally:
            await transport.close_async()  # type: ignore[no-untyped-call]


@dataclass
class Taken:
    """A webhook that came in."""

    body: bytes
    signature: str
    at: float = field(default_factory=time.time)


class Hooks:
    """Takes webhooks, and answers them with `status`."""

    def __init__(self) -> None:
        """Take none yet, and be content."""
        self.status = 200
        self.taken: list[Taken] = []

    @asynccontextmanager
    async def listening(self, port: int) -> AsyncGenerator[Hooks]:
        """Listen on `port`."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", port)
        try:
            yield self
        finally:
            server.close()
            await server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:])}
        body = await reader.readexactly(int(headers["content-length"]))
        assert head[0] == "POST /webhooks/stripe HTTP/1.1"
        self.taken.append(Taken(body, headers["stripe-signature"]))
        writer.write(f"HTTP/1.1 {self.status} x\r\nContent-Length: 0\r\n\r\n".encode())
        await writer.drain()
        writer.close()
