"""The whole platform of one home: servers, migrations, and the processes that do the work, started and stopped in order."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from contextlib import suppress
from typing import TYPE_CHECKING

from infra.embedded import EmbeddedError
from infra.embedded.files import write_atomically
from infra.embedded.ports import LOOPBACK, Ports
from infra.embedded.process import Gate, Program, python, reap
from infra.embedded.secrets import ensure_secrets
from infra.embedded.servers import Servers
from infra.embedded.supervisor import Supervisor
from infra.settings import instance_of

if TYPE_CHECKING:
    from pathlib import Path

    from infra.embedded import Report

SIMULATOR, WORKERS = 1, 2
"""Stages after the servers' 0: the highest is stopped first."""
MIGRATE = "infra.migrations.migrate,infra.runtime.catalog"
WORK = "infra.runtime.running.workers,infra.wiring,infra.kafka.application"
PROCESSES = {
    "workers": (WORK, "work", "workers"),
    "models": (WORK, "work", "sagas", "projections"),
    "serve": ("infra.http.app,uvicorn,uvloop", "serve"),
}
"""What does the work: what to import early, and the command.

The work is in two processes, so that both cores are used and a busy worker does not hold up the read models.
"""
WHOLE_S = 10
"""So long consumers may take to share their partitions out, before the platform is ready without."""
MEGABYTES_NEEDED = 300
FIRST_HTTP_PORT = 8080


class Platform:
    """What `up` runs."""

    def __init__(self, home: Path, report: Report) -> None:
        """Whoever makes one holds the home's lock."""
        self._home = home
        self._report = report
        self._supervisor = Supervisor(home, report)
        self._endpoints = home / "endpoints.json"

    async def start(self) -> None:
        """From whatever the last run left to a platform that answers, at the addresses in endpoints.json; EmbeddedError says what stands in the way."""
        free = shutil.disk_usage(self._home).free >> 20
        if free < MEGABYTES_NEEDED:
            msg = f"{self._home} has {free} MB free and {MEGABYTES_NEEDED} MB are needed: free space, then start again"
            raise EmbeddedError(msg)
        self._endpoints.unlink(missing_ok=True)
        secrets = ensure_secrets(self._home)
        if left := await reap(self._home):
            self._report("up", f"stopped {left} processes that an earlier run left behind")
        ports = Ports(self._home)
        host, http = (
            os.environ.get("TRIPLANE_HTTP_HOST") or LOOPBACK,
            ports.claim("http", first=FIRST_HTTP_PORT),
        )
        simulator = None if os.environ.get("STRIPE_API_KEY") else ports.claim("stripe")
        software = self._home / "software"
        servers = Servers(self._home, software, secrets["postgres_password"], self._supervisor, self._report)
        endpoints = await servers.prepare()
        endpoints["http"] = f"http://{LOOPBACK if host in {'0.0.0.0', '::'} else host}:{http}"  # noqa: S104 - shown, not bound
        if simulator:
            endpoints["stripe"] = f"http://{LOOPBACK}:{simulator}"
        environment = {
            "TRIPLANE_HOME": str(self._home),
            "TRIPLANE_KAFKA": endpoints["kafka"],
            "TRIPLANE_POSTGRES": endpoints["postgres"],
            "TRIPLANE_HTTP_HOST": host,
            "TRIPLANE_HTTP_PORT": str(http),
            "TRIPLANE_STRIPE_API_BASE": endpoints.get("stripe", ""),
        }
        # everything imports while the servers boot, and goes on when its turn comes
        first, then = Gate(), Gate()
        migrate = Program(
            "migrate", _warm(MIGRATE, "infra.cli", "migrate"), self._home, env=environment, gate=first
        )
        migrating = asyncio.create_task(migrate.run())
        try:
            if simulator:
                command = _warm(
                    "infra.embedded.stripe.api", "infra.embedded.stripe", "--port", str(simulator)
                )
                program = Program("stripe", command, self._home, env=environment, gate=then)
                self._supervisor.start(program, stage=SIMULATOR)
            for name, (modules, *arguments) in PROCESSES.items():
                command = _warm(modules, "infra.cli", *arguments)
                program = Program(name, command, self._home, env=environment, gate=then)
                self._supervisor.start(program, stage=WORKERS)
            await servers.start()
            self._report("migrate", "schemas, roles, topics, consumers")
            first.open()
            await migrating
        finally:
            migrating.cancel()
        then.open()
        self._report("serve", "waiting until it is ready")
        instance = instance_of(os.environ.get("TRIPLANE_MASTER_KEY") or secrets["master_key"])
        await self._supervisor.until(lambda: _answers(host, http, instance), "serve", within=90)
        with suppress(TimeoutError):
            async with asyncio.timeout(WHOLE_S):
                while not await _answers(host, http, instance, whole=True):  # noqa: ASYNC110 - a probe, not an event
                    await asyncio.sleep(0.1)
        write_atomically(self._endpoints, json.dumps(endpoints, indent=2))
        self._report("up", "ready")

    async def stop(self) -> None:
        """Stop everything in order; what was done so far is kept."""
        self._endpoints.unlink(missing_ok=True)
        await self._supervisor.stop()
        self._report("up", "stopped")


def _warm(modules: str, target: str, *arguments: str) -> list[str]:
    return python("infra.embedded.gate", modules, target, *arguments)


async def _answers(host: str, port: int, instance: str, *, whole: bool = False) -> bool:
    """Whether GET /readyz says 200, and it is this platform that says so: another may have taken the port.

    `whole` asks for every partition to be attended to, too.
    """
    try:
        async with asyncio.timeout(2):
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            answer = await reader.read()
            writer.close()
    except (OSError, TimeoutError):
        return False
    ready = answer.split()[1:2] == [b"200"] and instance.encode() in answer
    return ready and (not whole or b'"partitions":{"ok":true' in answer)
