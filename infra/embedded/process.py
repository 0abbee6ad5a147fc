"""Child processes that never outlive their home's supervisor for long: started tied to it, found again when they do."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from infra.embedded import EmbeddedError

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import Mapping, Sequence

LAUNCH = Path(__file__).with_name("launch.py")
ROOT = Path(__file__).resolve().parents[2]
MARK = "TRIPLANE_SUPERVISED"
"""The environment variable in which every supervised process carries its home."""


class Gate:
    """Holds up programs that wait for the end of their standard input; once open, it stays so."""

    def __init__(self) -> None:
        """Closed."""
        self.entrance, self._bar = os.pipe()

    def open(self) -> None:
        """Let through who waits and who comes later."""
        os.close(self._bar)


@dataclass(frozen=True)
class Program:
    """How to run one program: what, as whom, and how it wants to be stopped."""

    name: str
    argv: Sequence[str]
    home: Path
    cwd: Path | None = None
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    user: str = ""
    """Login name to run as instead of root; empty for one's own."""
    stop: signal.Signals = signal.SIGTERM
    gate: Gate | None = None
    """Where it gets its standard input from instead of nowhere."""

    @property
    def log(self) -> Path:
        """Where its output goes."""
        return self.home / "logs" / f"{self.name}.log"

    async def start(self) -> Process:
        """Start it with output appended to its log; it gets `stop` when this process dies.

        Call it from the main thread only: the kernel ties a child to the thread that made it.
        """
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            return await self._spawn(stdin=self._input(asyncio.subprocess.DEVNULL), stdout=log)

    async def run(self, text: str = "") -> str:
        """Run it to its end with `text` as input, and return its output; EmbeddedError when it fails."""
        process = await self._spawn(
            stdin=self._input(asyncio.subprocess.PIPE), stdout=asyncio.subprocess.PIPE
        )
        try:
            output = (await process.communicate(text.encode() or None))[0].decode(errors="replace")
        except asyncio.CancelledError:
            process.kill()
            await process.wait()
            raise
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("a", encoding="utf-8") as log:
            log.write(output)
        if process.returncode:
            msg = f"{self.name} failed: {tail(output) or f'exit code {process.returncode}'} (more in {self.log})"
            raise EmbeddedError(msg)
        return output

    def _input(self, default: int) -> int:
        return self.gate.entrance if self.gate else default

    async def _spawn(self, stdin: int, stdout: object) -> Process:
        launch = [sys.executable, "-I", "-S", str(LAUNCH), str(os.getpid()), str(int(self.stop)), self.user]
        return await asyncio.create_subprocess_exec(
            *launch,
            *self.argv,
            stdin=stdin,
            stdout=stdout,  # type: ignore[arg-type]  # a file or PIPE; the stub's union is private
            stderr=asyncio.subprocess.STDOUT,
            cwd=self.cwd,
            env={**surroundings(), **self.env, MARK: str(self.home)},
            umask=0o077,
            # a process group of its own: Ctrl-C reaches only the supervisor, which stops the others in order
            start_new_session=True,
        )


def python(module: str, *arguments: str) -> list[str]:
    """The command that runs a module of this very tree, whatever lies in the current directory."""
    return [sys.executable, "-P", "-m", module, *arguments]


def surroundings() -> dict[str, str]:
    """The environment in which such a command finds this tree."""
    path = filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path)}


def tail(text: str, lines: int = 3) -> str:
    """The last non-empty lines of a program's output, as one line."""
    return " | ".join([line.strip() for line in text.splitlines() if line.strip()][-lines:])


def orphans(home: Path) -> list[psutil.Process]:
    """Processes of this home that are running now. Whoever holds the home's lock may stop them: nobody else's are found."""
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        if process.pid == os.getpid():
            continue
        try:
            # PostgreSQL's processes overwrite their environment with a title, but never leave their data directory
            if process.environ().get(MARK) == str(home) or process.cwd() == str(home / "postgres"):
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


async def reap(home: Path, patience: float = 20) -> int:
    """Stop what an earlier supervisor of this home left behind; how many there were."""
    left = orphans(home)
    for process in left:
        _send(process, signal.SIGINT if process.name() == "postgres" else signal.SIGTERM)
    waited = 0.0
    alive = left
    while alive := [
        process for process in alive if process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    ]:
        if waited >= patience:
            for process in alive:
                _send(process, signal.SIGKILL)
        await asyncio.sleep(0.05)
        waited += 0.05
    return len(left)


def _send(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return
    except psutil.AccessDenied as error:
        msg = f"process {process.pid} of an earlier run cannot be stopped by this user: stop it, or start as its user"
        raise EmbeddedError(msg) from error
