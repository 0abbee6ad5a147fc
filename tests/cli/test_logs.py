"""What libraries log: in the form of the platform's own lines, and not over and over."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from infra.logs import logged_to


def test_what_a_library_says_over_and_over_is_one_line_with_its_time(tmp_path: Path) -> None:
    library = logging.getLogger("library")
    with logged_to(tmp_path / "some.log"):
        for number in range(100):
            library.error('no "broker" at %s', number)
        library.error("another")
    assert (tmp_path / "some.log").stat().st_mode & 0o077 == 0
    lines = [json.loads(line) for line in (tmp_path / "some.log").read_text().splitlines()]
    assert [(line["event"], line["logger"], line["level"]) for line in lines] == [
        ('no "broker" at 0', "library", "error"),
        ("another", "library", "error"),
    ]
    assert all(line["timestamp"].endswith("Z") for line in lines)


def test_what_passes_by_itself_is_told_without_its_stack_and_a_mistake_with_it(tmp_path: Path) -> None:
    library = logging.getLogger("library")
    with logged_to(tmp_path / "some.log"):
        for error in (ConnectionResetError("away"), KeyError("a mistake")):
            library.error("failed of %s" if isinstance(error, KeyError) else "lost %s", error, exc_info=error)
    passing, mistake = (json.loads(line) for line in (tmp_path / "some.log").read_text().splitlines())
    assert (passing["error"], "exception" in passing) == ("ConnectionResetError('away')", False)
    assert "KeyError: 'a mistake'" in mistake["exception"]
