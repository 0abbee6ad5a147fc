"""The standard streams of this process: all three are there, and an output that fails is not taken for a server's failure."""

from __future__ import annotations

import io
import os
import sys
from typing import Any

from infra.cli.errors import CommandError


def open_streams() -> None:
    """Have all three standard streams, though cron or a service manager has closed some: their numbers must not be others'."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            # The lowest number that is free, which is this one.
            os.open(os.devnull, os.O_RDWR)
        if getattr(sys, name) is None:
            mode = "r" if number == 0 else "w"
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115 - it stays
    output = Output(sys.stdout.fileno(), "w", closefd=False)
    sys.stdout = io.TextIOWrapper(output, sys.stdout.encoding, sys.stdout.errors, write_through=True)


class Output(io.FileIO):
    """Standard output, without a buffer: what could not be written is not tried again when Python ends.

    A reader that has left (`| head`) ends the telling, not the work: the rest goes nowhere, and the exit code tells how the
    command ended, whether it only shows or changes something.
    """

    def write(self, text: Any, /) -> int:
        """Write all of it; raises `CommandError` where that cannot be."""
        left = memoryview(text)
        size = len(left)
        try:
            while left:
                left = left[super().write(left) :]
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
        except OSError as error:
            msg = f"the output cannot be written: {error.strerror}"
            raise CommandError(msg) from error
        return size
