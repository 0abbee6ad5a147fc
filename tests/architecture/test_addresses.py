"""Nothing in the tree names a place on somebody's machine, or where packages are downloaded from.

Both would hold for one machine only: paths are found at run time, and packages come through whatever index a machine is
set to. In these patterns a class of one character stands for a dot, so that they do not find themselves.
"""

from __future__ import annotations

import re

import pytest

from infra.embedded.process import ROOT
from tests.architecture.tree import TOP, files

PLACES = {
    "a path of somebody's machine": re.compile(
        r"(?<![\w.~$})\]*-])/(?:home|root|work|Users|mnt|media|srv|opt)/[\w.$]|\b[A-Za-z]:\\+(?:Users|Documents)\b"
    ),
    "a host that packages are downloaded from": re.compile(
        r"\b(?:pypi|pythonhosted|python-poetry|maven|maven[.]apache|npmjs|rubygems|anaconda)[.](?:org|com)\b"
        r"|\b(?:repo1?[.]maven|registry[.](?:yarnpkg|npmjs)|proxy[.]golang|crates[.]io|docker[.]io|ghcr[.]io|quay[.]io)\b",
        re.IGNORECASE,
    ),
    "an index that packages are downloaded from": re.compile(r"--(?:extra-)?index-url[ =]|--find-links[ =]"),
}


def found_in(text: str) -> list[str]:
    """Say what of that kind stands in a text."""
    return [f"{meaning}: {it[0]}" for meaning, place in PLACES.items() for it in place.finditer(text)]


def test_nothing_names_a_machine_or_a_registry() -> None:
    wrong = []
    for path in files(*TOP):
        for number, line in enumerate(path.read_text("utf-8", "replace").splitlines(), 1):
            wrong += [f"{path.relative_to(ROOT)}:{number} names {it}" for it in found_in(line)]
    assert wrong == []


@pytest.mark.parametrize(
    "parts",
    [
        ("", "home", "dev", "project"),
        ("cache = '", "root", ".cache'"),
        ("", "Users", "dev"),
        ("file://", "work", "main"),
        ("https:", "", "pypi" + ".org", "simple"),
        ("", "files.python" + "hosted.org", ""),
        ("https:", "", "repo1." + "maven" + ".org", "maven2"),
        ("https:", "", "registry." + "npmjs" + ".org", ""),
        ("--index" + "-url https:", "", "mirror.example"),
        ("C:" + "\\Users\\dev",),
    ],
)
def test_each_kind_is_noticed(parts: tuple[str, ...]) -> None:
    assert found_in("/".join(parts))


@pytest.mark.parametrize(
    "text", ["~/code/x", "$ROOT/home/x", "https://example.org/work/1", "a/home/b", "the home/work split"]
)
def test_what_only_looks_like_it_is_left_alone(text: str) -> None:
    assert found_in(text) == []
