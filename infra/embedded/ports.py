"""Ports on loopback: chosen free at the first start, remembered in the home, refused by name when somebody else has them."""

from __future__ import annotations

import json
import os
import random
import socket
from typing import TYPE_CHECKING

import psutil

from infra.embedded import EmbeddedError
from infra.embedded.files import write_atomically
from infra.settings import port

if TYPE_CHECKING:
    from pathlib import Path

LOOPBACK = "127.0.0.1"
RANGE = range(20_000, 32_000)
"""Below the range from which systems number outgoing connections, so that a remembered port stays ours."""


class Ports:
    """The ports of one home."""

    def __init__(self, home: Path) -> None:
        """Read what was chosen before; a damaged file counts as none."""
        self._path = home / "ports.json"
        try:
            self._known: dict[str, int] = json.loads(self._path.read_text("utf-8"))
        except (OSError, ValueError):
            self._known = {}

    def claim(self, name: str, *, first: int | None = None) -> int:
        """The port of `name`: by TRIPLANE_<NAME>_PORT, else as remembered, else `first` if free, else any free one.

        EmbeddedError when the one that was asked for or remembered is in use.
        """
        setting = f"TRIPLANE_{name.upper()}_PORT"
        number = port(setting, os.environ.get(setting)) or self._known.get(name)
        if number is None:
            number = first if first and free(first) else self.any()
        elif not free(number):
            msg = f"port {number}, which {name} needs, is in use{_by(number)}: stop that program, or set {setting} to a free port"
            raise EmbeddedError(msg)
        if self._known.get(name) != number:
            self._known[name] = number
            write_atomically(self._path, json.dumps(self._known))
        return number

    def any(self) -> int:
        """A port that is free now."""
        for number in random.sample(RANGE, 200):
            if number not in self._known.values() and free(number):
                return number
        msg = f"no free port between {RANGE.start} and {RANGE.stop} on {LOOPBACK}"
        raise EmbeddedError(msg)


def free(number: int) -> bool:
    """Whether a server could listen on this loopback port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, number))
            probe.listen(1)
        except OSError:
            return False
    return True


def _by(number: int) -> str:
    try:
        for used in psutil.net_connections("tcp"):
            if used.status == psutil.CONN_LISTEN and used.laddr and used.laddr.port == number and used.pid:
                return f" by process {used.pid} ({psutil.Process(used.pid).name()})"
    except (psutil.Error, OSError):
        pass
    return ""
