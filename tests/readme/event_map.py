"""The map in README.md, drawn from the code between two markers."""

from __future__ import annotations

import re

from infra.contracts.event_map import event_map
from infra.runtime.catalog import discover
from tests.readme.blocks import README

_MAP = re.compile(
    r"(?<=^<!-- map: written by python -m tests\.contracts\.update -->\n).*?(?=^<!-- end of map -->$)",
    re.MULTILINE | re.DOTALL,
)


def renewed(text: str) -> str:
    """Give the README's text with the map as the code draws it now."""
    renewed_text, maps = _MAP.subn(lambda _: f"```mermaid\n{event_map(discover())}```\n", text)
    assert maps == 1, "README.md: the two markers of the map are gone; put them back around it"
    return renewed_text


def renew() -> bool:
    """Draw the map in README.md anew; whether anything changed."""
    before = README.read_text("utf-8")
    after = renewed(before)
    if after != before:
        README.write_text(after, "utf-8")
    return after != before
