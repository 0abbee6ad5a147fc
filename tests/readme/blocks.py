"""The blocks of README.md, so that tests can run what a newcomer would copy."""

from __future__ import annotations

import re
from dataclasses import dataclass

from infra.embedded.process import ROOT

README = ROOT / "README.md"
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_NAMED = re.compile(r"(?:#|//) ([\w./]+\.\w+)\n")


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block; `name` is the file that its first line names, or empty."""

    language: str
    name: str
    text: str


def blocks(language: str | None = None) -> list[Block]:
    """Give the blocks of a language, or all of them, in their order."""
    found: list[Block] = []
    for fenced in _BLOCK.finditer(README.read_text("utf-8")):
        named = _NAMED.match(fenced[2])
        text = fenced[2][named.end() :] if named else fenced[2]
        found.append(Block(fenced[1], named[1] if named else "", text))
    return [block for block in found if language in {None, block.language}]


def block(name: str) -> str:
    """Give the text of the one block that names this file."""
    (found,) = (block for block in blocks() if block.name == name)
    return found.text
