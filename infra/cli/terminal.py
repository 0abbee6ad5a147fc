"""What strangers wrote is shown on a terminal so that it cannot act on it, in columns that fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

WIDEST = 60
"""Characters of a cell that are shown."""


def harmless(text: str) -> str:
    """Give a text with every character that is not printable escaped: no colours, no cursor moves, no line breaks."""
    return "".join(it if it.isprintable() else it.encode("unicode_escape").decode() for it in text)


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
