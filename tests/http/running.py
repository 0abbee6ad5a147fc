"""A whole platform of its own: broker, database, workers and HTTP server, each a process."""

from __future__ import annotations

import asyncio
import io
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Callable, Collection, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch
from uuid import uuid4

import httpx

from infra.cli import main
from infra.embedded.process import ROOT, python, surroundings
from infra.http.authentication import Role
from infra.http.keys import mint
from infra.settings import Settings, home_path
from tests.embedded.jars import software

CHEAP = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Nothing here speaks TLS; making a context for each client would cost more than the requests."""

NOWHERE = "127.0.0.1:9"
"""An address where no broker ever answers."""


def free_port() -> int:
    """Give a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    returncode: int
    stdout: bytes
    stderr: bytes


@dataclass
class Running:
    """One platform under test."""

    settings: Settings
    port: int
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def home(self) -> Path:
        """Its state home."""
        return self.settings.home

    @property
    def base(self) -> str:
        """Where its HTTP server answers."""
        return f"http://127.0.0.1:{self.port}"

    def token(
        self,
        tenant: str = "demo-a",
        roles: Collection[str] = (Role.PUBLISHER, Role.ANALYST),
        subject: str = "tester",
    ) -> str:
        """Mint a token."""
        return mint(self.settings, tenant=tenant, subject=subject, roles=roles, ttl_s=3600)

    @asynccontextmanager
    async def client(
        self,
        tenant: str = "demo-a",
        roles: Collection[str] = (Role.PUBLISHER, Role.ANALYST),
        base: str | None = None,
    ) -> AsyncGenerator[httpx.AsyncClient]:
        """Give a client with a token."""
        headers = {"Authorization": f"Bearer {self.token(tenant, roles)}"}
        async with httpx.AsyncClient(
            base_url=base or self.base, headers=headers, timeout=45, trust_env=False, verify=CHEAP
        ) as client:
            yield client

    def environment(self, **more: str) -> dict[str, str]:
        """Give what a process of this platform must know."""
        clean = {
            name: value
            for name, value in surroundings().items()
            if not name.startswith(("TRIPLANE_", "STRIPE_"))
        }
        return {**clean, "TRIPLANE_HOME": str(self.home), "TRIPLANE_HTTP_PORT": str(self.port), **more}

    def cli(self, *arguments: str, stdin: bytes = b"") -> Done:
        """Run a command to its end, in this process: what takes long of a command is that Python starts."""
        out, err, source = (
            io.TextIOWrapper(io.BytesIO(raw), "utf-8", write_through=True) for raw in (b"", b"", stdin)
        )
        with (
            patch.dict(os.environ, self.environment(), clear=True),
            patch.object(sys, "stdin", source),
            redirect_stdout(out),
            redirect_stderr(err),
            # A test may run a loop of its own.
            ThreadPoolExecutor(1) as thread,
        ):
            code = thread.submit(main, list(arguments)).result(60)
        return Done(code, *(stream.buffer.getvalue() for stream in (out, err)))

    def start(self, *arguments: str, **more: str) -> subprocess.Popen[bytes]:
        """Start a command that goes on."""
        (self.home / "logs").mkdir(exist_ok=True)
        with (self.home / "logs" / f"{arguments[0]}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "infra.cli", *arguments],
                cwd=ROOT,
                env=self.environment(**more),
                stdout=log,
                stderr=log,
            )
        self.processes.append(process)
        return process

    def stop(self, process: subprocess.Popen[bytes]) -> int:
        """Ask a process to end, and give its exit code."""
        if process in self.processes:
            self.processes.remove(process)
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)
            process.terminate()
        try:
            return process.wait(25)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise

    def log(self, name: str) -> str:
        """Give the end of a process's log."""
        return (self.home / "logs" / f"{name}.log").read_text("utf-8")[-4000:]


def until(probe: Callable[[], bool], seconds: float, what: str) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if probe():
            return
        time.sleep(0.05)
    raise AssertionError(f"not within {seconds} s: {what}")


async def eventually(probe: Callable[[], Any], seconds: float = 15) -> Any:
    """Wait until an awaited probe gives something true, and give it."""
    deadline = time.monotonic() + seconds
    while True:
        found = await probe()
        if found:
            return found
        assert time.monotonic() < deadline, f"not within {seconds} s"
        await asyncio.sleep(0.05)


def plain(method: str, url: str, **more: Any) -> httpx.Response:
    """Send one request, with nothing but what it says."""
    return httpx.request(method, url, timeout=30, trust_env=False, verify=CHEAP, **more)


def answers(base: str, path: str, status: int = 200) -> bool:
    """Whether a server answers like this."""
    try:
        return plain("GET", f"{base}{path}").status_code == status
    except httpx.TransportError:
        return False


@contextmanager
def running() -> Generator[Running]:
    """Run a platform in a home of its own, beside the session's."""
    home = home_path() / f"http-{uuid4().hex[:8]}"
    environment = {name: value for name, value in surroundings().items() if not name.startswith("TRIPLANE_")}
    command = python("infra.embedded", str(home), str(software()))
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as servers:
        assert servers.stdout
        platform: Running | None = None
        try:
            assert "ready\n" in servers.stdout, "the embedded servers did not start"
            platform = Running(_settings(home), free_port())
            migration = [sys.executable, "-m", "infra.cli", "migrate"]
            subprocess.run(migration, cwd=ROOT, env=platform.environment(), check=True, timeout=120)
            platform.start("work")
            platform.start("serve")
            ready = platform
            until(lambda: answers(ready.base, "/readyz"), 60, f"ready; {ready.log('serve')}")
            yield platform
        finally:
            for process in list(platform.processes) if platform is not None else []:
                process.send_signal(signal.SIGCONT)
                process.terminate()
            for process in list(platform.processes) if platform is not None else []:
                process.wait(30)
            servers.terminate()
            servers.wait(60)
            shutil.rmtree(home, ignore_errors=True)


def _settings(home: Path) -> Settings:
    """Load the settings of a home whatever this process's own environment says."""
    outer = {
        name: os.environ.pop(name) for name in list(os.environ) if name.startswith(("TRIPLANE_", "STRIPE_"))
    }
    try:
        return Settings.load(home)
    finally:
        os.environ.update(outer)
