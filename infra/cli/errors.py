"""How a command ends when it does not end well: a message with the remedy, and the exit code that scripts rely on."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from enum import IntEnum


class Code(IntEnum):
    """Exit codes of every command."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    REFUSED = 3
    """A guard said no; nothing was changed."""
    PARTIAL = 4
    """Some of it was done; the report says which."""
    INTERRUPTED = 130


class CommandError(Exception):
    """Ends the command with a message on standard error and an exit code."""

    def __init__(self, message: str, code: Code = Code.FAILED) -> None:
        """`message` says what is wrong and what to do about it."""
        super().__init__(message)
        self.code = code


def unknown(what: str, name: str, known: Iterable[str], shown_by: str = "") -> CommandError:
    """Say that there is no such thing, what may have been meant, and what there is, or which command shows it."""
    names = sorted(known)
    near = get_close_matches(name, names, 3, 0.7)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    every = f"{shown_by} shows them all" if shown_by else f"there are {', '.join(names) or 'none'}"
    return CommandError(f"{name!r} is no {what}{hint} ({every})", Code.USAGE)
