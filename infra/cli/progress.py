"""What a long command tells while it works: lines, or on a terminal one line that changes until its step is done."""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress

from infra.cli.errors import CommandError


class Progress:
    """Prints the steps of one command."""

    def __init__(self) -> None:
        """The clock starts now."""
        self._began = time.monotonic()
        self._live = (
            sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        )
        self._open = False
        self._last: dict[str, float] = {}

    def __call__(self, name: str, news: str) -> None:
        """A step's news; counted ones (`3/46 ...`) change in place, or appear every five seconds."""
        counted = news[:1].isdigit()
        line = f"{time.monotonic() - self._began:6.1f} s  {name:<10} {news}"
        if self._live:
            self._write(f"\r{line}\033[K" + ("" if counted else "\n"))
            self._open = counted
        elif not counted or time.monotonic() - self._last.get(name, 0) >= 5:
            self._last[name] = time.monotonic()
            self._write(line + "\n")

    def line(self, text: str = "") -> None:
        """A line of its own."""
        self._write(("\n" if self._open else "") + text + "\n")
        self._open = False

    @staticmethod
    def _write(text: str) -> None:
        # a closed terminal or a full disk ends the telling, not the work
        with suppress(CommandError):
            sys.stdout.write(text)
            sys.stdout.flush()
