"""What a generation was built from: the same rows and functions have the same digests in every process, others have others.

The shape says which rows can be read and written; the code, what the functions make of them. Comments, docstrings and
format count for nothing.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from typing import Any

from pydantic import create_model

from infra.errors import WiringError
from infra.runtime.catalog import ProjectionWiring
from infra.runtime.folding.read_models import read_model
from infra.runtime.messages.codec import shape_of
from infra.runtime.messages.ids import payload_hash
from projections import Row


def shape(wiring: ProjectionWiring) -> int:
    """Give a signed 64-bit digest of all row classes of a projection: fields, columns, keys, what is personal."""
    parts = [_rows_shape(row, view) for row, view in wiring.rows.items()]
    return payload_hash("\n".join(sorted(parts)).encode())


@cache
def _rows_shape(row: type[Row], view: str) -> str:
    """Describe one row class; once, as whoever measures freshness compares it every second."""
    model = read_model(row, view, 0)
    columns = ",".join(f"{it.name} {it.sql} {it.personal}" for it in model.columns)
    return f"{view}={shape_of(row)};{columns};{','.join(model.key)}"


@cache
def kinds(row: type[Row], view: str) -> dict[str, str]:
    """Say of each column of a row class what its readers rely on: its SQL type, and whether it is sealed, a document, of which key.

    Whoever finds all its columns of the same kinds in another shape can read that, too.
    """
    model = read_model(row, view, 0)
    found: dict[str, str] = {}
    for column in model.columns:
        words = [column.sql]
        if column.personal:
            words.append("sealed")
        if column.document is not None:
            kind: Any = row.model_fields[column.name].annotation
            words.append(f"shape {shape_of(create_model('Document', it=(kind, ...)))}")
        if column.name in model.key:
            words.append(f"of key {', '.join(model.key)}")
        found[column.name] = " ".join(words)
    return found


def code(wiring: ProjectionWiring) -> int:
    """Give a signed 64-bit digest of a projection's functions with all that they use in their own modules.

    What they use of other modules is not followed: contracts have versions, and the fold engine is not theirs.
    """
    wanted: dict[str, set[str]] = {}
    for folds in wiring.folds.values():
        for fold in folds:
            function = fold.signature.function
            wanted.setdefault(function.__module__, set()).add(function.__qualname__.partition(".")[0])
    listening = [f"{event}: {len(folds)}" for event, folds in sorted(wiring.folds.items())]
    used = [text for module, names in sorted(wanted.items()) for text in _used(module, names)]
    return payload_hash("\n".join((*listening, *used)).encode())


def _used(module: str, names: set[str]) -> list[str]:
    """Give the statements of a module that define `names` and whatever these use, in their order."""
    statements = _statements(module)
    chosen: set[int] = set()
    looking = set(names)
    while looking:
        name = looking.pop()
        for number, (defined, uses, _) in enumerate(statements):
            if name in defined and number not in chosen:
                chosen.add(number)
                looking |= uses
    return [statements[number][2] for number in sorted(chosen)]


@cache
def _statements(module: str) -> list[tuple[set[str], set[str], str]]:
    """Read a module: of each statement the names that it defines, those that it uses, and its text without comments."""
    try:
        tree = ast.parse(inspect.getsource(import_module(module)))
    except (OSError, TypeError) as unseen:
        raise WiringError(
            f"{module}: its source cannot be read, so nobody would notice a change; install it with its .py files"
        ) from unseen
    return [
        (
            set(_defined(statement)),
            {it.id for it in ast.walk(statement) if isinstance(it, ast.Name)},
            ast.unparse(_Plain().visit(statement)),
        )
        for statement in tree.body
        if not isinstance(statement, ast.Expr)
    ]


def _defined(node: ast.AST) -> Iterator[str]:
    """Give the names that a statement of a module defines, in all its branches; those within a function or class are its own."""
    match node:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            yield name
        case ast.Import(names=names) | ast.ImportFrom(names=names):
            for it in names:
                yield it.asname or it.name.partition(".")[0]
        case ast.Name(id=name, ctx=ast.Store()):
            yield name
        case _:
            for part in ast.iter_child_nodes(node):
                yield from _defined(part)


class _Plain(ast.NodeTransformer):
    """Takes away what only people read, and what an import brings beside."""

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        """Leave out docstrings."""
        if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            return None
        return self.generic_visit(node)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST:
        """One name more in an import changes nothing for who uses another."""
        return ast.ImportFrom(node.module, [], node.level)
