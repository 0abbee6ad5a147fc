"""A terminal: what strangers wrote cannot act on it, tables fit it, and questions are asked where somebody can answer."""

from __future__ import annotations

import signal
import sys
from collections.abc import Mapping, Sequence

import typer

from infra.cli.errors import Code, CommandError

LONGEST_SAID = 255
WIDEST = 60
"""Characters of a cell that are shown."""


def harmless(text: str) -> str:
    """Give a text with every character that is not printable escaped: no colours, no cursor moves, no line breaks."""
    return "".join(it if it.isprintable() else it.encode("unicode_escape").decode() for it in text)


def confirm(what: str, *, yes: bool, otherwise: str = "") -> None:
    """Ask whether to do `what` unless `yes` was said; where nobody can be asked, refuse, and say what else may be done."""
    if yes:
        return
    if not sys.stdin.isatty():
        msg = f"this would {what}: say --yes to do it without a question{otherwise}"
        raise CommandError(msg, Code.REFUSED)
    if answered(f"{what}? [y/N] ").strip().lower() not in {"y", "yes"}:
        raise SystemExit(Code.REFUSED)


def answered(question: str) -> str:
    """Ask somebody at a terminal. Ctrl-C ends the command, as does an end of input, which is a no."""
    # Whoever runs a loop has put something else in its place, which would wait for the loop.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return input(question)
    except EOFError:
        raise SystemExit(Code.REFUSED) from None
    except KeyboardInterrupt:
        raise SystemExit(Code.INTERRUPTED) from None
    finally:
        signal.signal(signal.SIGINT, handler or signal.SIG_DFL)


def said(option: str, text: str) -> str:
    """Give what was said for the record, trimmed; refuse what could not be kept or shown."""
    text = text.strip()
    if len(text) > LONGEST_SAID or not text.isprintable():
        msg = f"{option}: at most {LONGEST_SAID} printable characters"
        raise CommandError(msg, Code.USAGE)
    return text


def _why(text: str) -> str:
    return said("--why", text)


WHY = typer.Option(help="For the record: why.", callback=_why)
"""The option of every act that is kept with its reason."""


def needed(why: str) -> None:
    """Refuse an act without its reason."""
    if not why:
        msg = "--why is needed: it is kept with who did it"
        raise CommandError(msg, Code.USAGE)


def table(rows: Sequence[Mapping[str, object]]) -> str:
    """Lay rows out in columns, the first row's keys as heads; empty values stay empty."""
    if not rows:
        return "(no rows)"
    heads = list(rows[0])
    cells = [[_cell(row.get(head)) for head in heads] for row in rows]
    widths = [max(len(head), *(len(line[at]) for line in cells)) for at, head in enumerate(heads)]
    lines = [heads, ["-" * width for width in widths], *cells]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def _cell(value: object) -> str:
    text = "" if value is None else harmless(str(value))
    return text if len(text) <= WIDEST else text[: WIDEST - 1] + "…"
