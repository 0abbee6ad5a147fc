"""Keeps a home's processes running: started until ready, restarted when they crash, stopped in order."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from infra.embedded import EmbeddedError
from infra.embedded.files import write_atomically
from infra.embedded.process import tail

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from infra.embedded import Report
    from infra.embedded.process import Program

RESTART_AT_ONCE = 75
"""The exit code with which a process asks for a fresh start (EX_TEMPFAIL)."""
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
"""Seconds before a crashed process is started again: doubled each time."""
STEADY = 10.0
"""Seconds after which a process counts as up, however it ends: its next pause is the first again. Longer than the start of any, and
shorter than most crashes are apart that have nothing to do with each other."""
LOG_LIMIT = 16 << 20
"""Bytes after which a log is set aside as `.1`; one is kept."""
PATIENCE = 25.0
"""Seconds a process has to stop when asked, before it is killed."""


@dataclass(eq=False)
class Child:
    """One kept process."""

    program: Program
    stage: int
    state: str = "starting"
    restarts: int = 0
    process: Process | None = None
    keeper: asyncio.Task[None] | None = None


class Supervisor:
    """The processes of one home, in stages: the highest stage is stopped first."""

    def __init__(self, home: Path, report: Report) -> None:
        """Nothing runs yet; `report` hears of crashes."""
        self._home = home
        self._report = report
        self._children: list[Child] = []
        self._stopping = False
        self._housekeeping: asyncio.Task[None] | None = None

    def start(self, program: Program, *, stage: int) -> None:
        """Start a program and keep it running."""
        child = Child(program, stage)
        self._children.append(child)
        if self._housekeeping is None:
            self._housekeeping = asyncio.create_task(self._bound_logs())
        child.keeper = asyncio.create_task(self._keep(child))

    async def until(self, ready: Callable[[], Awaitable[bool]], name: str, within: float) -> None:
        """Wait until `ready` says so.

        EmbeddedError after `within` seconds, or as soon as any of the processes crashes.
        """
        deadline = time.monotonic() + within
        while not await ready():
            for child in self._children:
                if child.restarts:
                    msg = f"{child.program.name} stopped while starting{self._last_words(child)}"
                    raise EmbeddedError(msg)
            if time.monotonic() > deadline:
                child = next(child for child in self._children if child.program.name == name)
                msg = f"{name} is not ready after {within:.0f} s{self._last_words(child)}"
                raise EmbeddedError(msg)
            await asyncio.sleep(0.05)

    async def stop(self) -> None:
        """Stop everything, stage by stage: ask, wait, kill."""
        self._stopping = True
        for stage in sorted({child.stage for child in self._children}, reverse=True):
            await asyncio.gather(*(self._end(child) for child in self._children if child.stage == stage))
        if self._housekeeping:
            self._housekeeping.cancel()
        (self._home / "processes.json").unlink(missing_ok=True)

    async def _keep(self, child: Child) -> None:
        pause = FIRST_PAUSE
        while True:
            began = time.monotonic()
            child.process = await child.program.start()
            child.state = "running"
            self._note()
            code = await child.process.wait()
            if self._stopping:
                return
            child.state = "restarting"
            if code == RESTART_AT_ONCE:
                self._note()
                continue
            child.restarts += 1
            self._note()
            if time.monotonic() - began > STEADY:
                pause = FIRST_PAUSE
            self._report(
                child.program.name,
                f"ended with {_meaning(code)}, started again in {pause:g} s; see {child.program.log}",
            )
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    def _last_words(self, child: Child) -> str:
        try:
            with child.program.log.open("rb") as log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - 4096))
                words = tail(log.read().decode(errors="replace"))
        except OSError:
            words = ""
        return f": {words} (more in {child.program.log})" if words else f"; see {child.program.log}"

    async def _end(self, child: Child) -> None:
        process = child.process
        if process and process.returncode is None:
            with suppress(ProcessLookupError):
                process.send_signal(child.program.stop)
            try:
                await asyncio.wait_for(process.wait(), PATIENCE)
            except TimeoutError:
                with suppress(ProcessLookupError):
                    process.send_signal(signal.SIGKILL)
                await process.wait()
        if child.keeper:
            child.keeper.cancel()
            with suppress(asyncio.CancelledError):
                await child.keeper

    def _note(self) -> None:
        """What `status` shows."""
        if not self._stopping:
            rows = [
                {
                    "name": child.program.name,
                    "state": child.state,
                    "pid": child.process.pid,
                    "restarts": child.restarts,
                }
                for child in self._children
                if child.process
            ]
            write_atomically(self._home / "processes.json", json.dumps(rows))

    async def _bound_logs(self) -> None:
        while True:
            await asyncio.sleep(10)
            for child in self._children:
                log = child.program.log
                with suppress(OSError):
                    if log.stat().st_size > LOG_LIMIT:
                        # the process goes on writing to this very file, so it is copied and emptied, not renamed
                        log.with_suffix(".log.1").write_bytes(log.read_bytes())
                        os.truncate(log, 0)


def _meaning(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
