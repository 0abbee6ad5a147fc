"""Everything public says what it means, in words that its name does not say already."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest

from tests.architecture.tree import PACKAGES, modules

Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef

EMPTY = frozenset(
    re.findall(
        "[a-z]+",
        """
        a an and as at be by class do does fixme for from function get gets give gives given helper implement implements
        in init initialise initialize into is it its main method module new object of on or return returns something
        stuff that the their these thing this to todo util utility value values various what which with
        """,
    )
)
"""Words that say nothing by themselves."""


def public(node: Documented, name: str) -> Iterator[tuple[str, str | None]]:
    """Walk a module or class: itself and everything public in it, each with its docstring."""
    yield name, ast.get_docstring(node)
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return
    for inner in node.body:
        if not isinstance(inner, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        hidden = inner.name.startswith("_") and inner.name != "__init__"
        overload = any(isinstance(it, ast.Name) and it.id == "overload" for it in inner.decorator_list)
        if not hidden and not overload:
            yield from public(inner, f"{name}.{inner.name}")


def says_nothing(name: str, text: str | None) -> bool:
    """Whether a docstring is missing, or only repeats the name."""
    return not set(words(text or "")) - EMPTY - set(words(name))


def words(text: str) -> Iterator[str]:
    """Walk the words of a text or name, without their endings."""
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])|_", " ", text).lower()
    for word in re.findall(r"[a-z0-9]+", apart):
        yield word if word in EMPTY else re.sub(r"(ies|es|s|ed|ing|e|y)$", "", word)


@pytest.mark.parametrize("package", PACKAGES)
def test_everything_public_says_what_it_means(package: str) -> None:
    silent = [
        name
        for module, path in modules(package)
        for name, text in public(ast.parse(path.read_text("utf-8")), module)
        if says_nothing(name, text)
    ]
    assert not silent, "write a docstring that says what the name does not: meaning, units, errors"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("infra.kafka.reader", None),
        ("infra.kafka.reader", ""),
        ("infra.kafka.reader.Reader", "The reader class."),
        ("infra.kafka.reader.Reader.bounds", "Gets the bounds."),
        ("infra.runtime.consuming.batch.Batcher.__init__", "Initialize the batcher."),
        ("infra.runtime.publishing.outbox.check_size", "Checks sizes."),
        ("infra.runtime.utils", "Various utility functions."),
        ("infra.runtime.messages.vault.Vault.seal", "TODO"),
    ],
)
def test_empty_words_are_noticed(name: str, text: str | None) -> None:
    assert says_nothing(name, text)


def test_what_is_walked_is_what_is_public() -> None:
    source = """
class Shown:
    def __init__(self): ...
    def told(self):
        def inner(): ...
    def _kept(self): ...
class _Hidden:
    def method(self): ...
async def acts(): ...
"""
    names = [name for name, _ in public(ast.parse(source), "m")]
    assert names == ["m", "m.Shown", "m.Shown.__init__", "m.Shown.told", "m.acts"]
