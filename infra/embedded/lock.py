"""One `up` per home: a lock that ends with the process that holds it, however that ends."""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

GLANCE = 0.5
"""Seconds a taker waits, because `status` and `down` hold the lock for an instant to see whether it is free."""


class HomeTaken(Exception):
    """Somebody holds the home's lock."""

    def __init__(self, home: Path, pid: int) -> None:
        """`pid` is the holder's."""
        super().__init__(f"{home} is in use by process {pid}")
        self.pid = pid


@contextmanager
def locked(home: Path) -> Generator[None]:
    """Hold the lock of `home`; HomeTaken where another process does."""
    # others may pass through, into what belongs to the user that the database runs as; they cannot look around
    home.mkdir(mode=0o711, parents=True, exist_ok=True)
    with (home / "up.lock").open("a+", encoding="ascii") as file:
        until = time.monotonic() + GLANCE
        while not _take(file):
            if time.monotonic() > until:
                raise HomeTaken(home, _pid(file))
            time.sleep(0.02)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def holder(home: Path) -> int | None:
    """The pid of the process that holds the lock of `home`, or None."""
    try:
        with (home / "up.lock").open("r", encoding="ascii") as file:
            return None if _take(file) else _pid(file)
    except FileNotFoundError:
        return None


def _take(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _pid(file: IO[str]) -> int:
    file.seek(0)
    return int(file.read() or 0)
