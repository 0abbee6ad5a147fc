"""The decisions can be found, are short, and speak of what is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from infra.embedded.process import ROOT

FOLDER = ROOT / "infra" / "decisions"
DECISIONS = sorted(FOLDER.glob("[0-9]*.md"))
MOST_LINES = 40


@pytest.mark.parametrize("path", DECISIONS, ids=lambda path: path.stem)
def test_is_one_page_in_the_usual_form(path: Path) -> None:
    lines = path.read_text("utf-8").splitlines()
    assert len(lines) <= MOST_LINES, f"at most {MOST_LINES} lines: say what decided"
    assert lines[0].startswith(f"# {path.name[:4]} ")
    assert {"## Consequences", "## Known"} <= set(lines), "what follows from it, and what is known for a fact"


@pytest.mark.parametrize("path", [*DECISIONS, FOLDER / "README.md"], ids=lambda path: path.stem)
def test_names_only_what_is_there(path: Path) -> None:
    named = re.findall(
        r"`((?:events|handlers|projections|sagas|infra|tests)[./][\w./-]+)`", path.read_text("utf-8")
    )
    missing = [name for name in named if not _exists(name)]
    assert missing == [], "moved? Then say where it is now"


def test_the_index_lists_them_all_in_order() -> None:
    index = (FOLDER / "README.md").read_text("utf-8")
    listed = re.findall(r"^\| \[(\d{4})\]\((\d{4}-[a-z-]+\.md)\) \| (.+) \|$", index, re.MULTILINE)
    titles = [path.read_text("utf-8").splitlines()[0].removeprefix("# ") for path in DECISIONS]
    assert [(number, name) for number, name, _ in listed] == [(it.name[:4], it.name) for it in DECISIONS]
    assert [f"{number} {title}" for number, _, title in listed] == titles
    assert [it.name[:4] for it in DECISIONS] == [f"{number:04}" for number in range(1, len(DECISIONS) + 1)]


def _exists(name: str) -> bool:
    path = ROOT / (name if "/" in name else name.replace(".", "/"))
    return path.exists() or path.with_suffix(".py").exists()
