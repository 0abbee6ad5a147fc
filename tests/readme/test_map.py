"""The map in README.md is the one that the code draws."""

from __future__ import annotations

from tests.readme.blocks import README
from tests.readme.event_map import renewed


def test_the_map_is_drawn_from_the_code_as_it_is() -> None:
    text = README.read_text("utf-8")
    assert renewed(text) == text, "the map in README.md is stale; renew it: python -m tests.contracts.update"


def test_a_stale_map_is_noticed() -> None:
    text = README.read_text("utf-8")
    assert renewed(text.replace("  upstream -- ", "  somebody -- ", 1)) == text
