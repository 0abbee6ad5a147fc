"""Tells a change of a contract that breaks somebody from one that only adds.

Two kinds of people hold a contract: who sends (upstream, and every message that is recorded already) must go on being
understood; who reads facts must meet nothing that they were told cannot come. So a sender's freedom may grow and never
shrink; of a fact, a field may not take on another type either. Readers are told to expect what merely grows: a field
more, a word more in a list, a longer text.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

Node = Mapping[str, Any]

WORDS: Final = ("title", "description", "examples", "deprecated")
"""Keywords that mean something to people only."""
UPPER: Final = (("maximum", "exclusiveMaximum"), ("maxLength", None), ("maxItems", None))
LOWER: Final = (("minimum", "exclusiveMinimum"), ("minLength", None), ("minItems", None))
_BOUNDS: Final = {name for pair in (*UPPER, *LOWER) for name in pair if name is not None}
_COMPARED: Final = {
    *WORDS,
    *_BOUNDS,
    *("$defs", "$id", "$ref", "additionalProperties", "anyOf", "const", "default", "enum", "format", "items"),
    *("pattern", "properties", "required", "type"),
}
_ABSENT: Final = object()


@dataclass(frozen=True, slots=True)
class Change:
    """One difference; `place` is the path of a field, or what else of the contract has changed."""

    place: str
    what: str
    breaking: bool

    def __str__(self) -> str:
        """Write it as a line of a list."""
        return f"{self.place}: {self.what}"


def compare(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Change]:
    """Say how a contract has changed from one snapshot to another."""
    return [*_standing(before, after), *_Schemas(before, after).changes()]


def _standing(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Change]:
    """What is said of a message beside its schema."""
    for name, meaning in (
        ("kind", "who listens and who answers depend on it"),
        ("key", "the order of its messages would change, and their streams"),
        ("subject", "what is sealed already could not be opened"),
    ):
        if before[name] != after[name]:
            yield Change(name, f"was {before[name]!r}, is {after[name]!r}: {meaning}", breaking=True)
    if before["public"] and not after["public"]:
        yield Change("public", "upstream may no longer send it", breaking=True)
    if after["public"] and not before["public"]:
        yield Change("public", "upstream may send it now", breaking=False)
    for name in before["personal"]:
        if name not in after["personal"]:
            yield Change(
                name, "is no longer Personal: what is sealed already could not be opened", breaking=True
            )
    for name in after["personal"]:
        if name not in before["personal"] and name in before["schema"]["properties"]:
            yield Change(
                name,
                "is Personal now: what is recorded stays in clear, readers find it sealed",
                breaking=True,
            )


class _Schemas:
    """Two JSON Schemas of one contract."""

    def __init__(self, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
        self._is_fact = before["kind"] != "command"
        self._before, self._after = before["schema"], after["schema"]

    def changes(self) -> list[Change]:
        return self._node("", self._before, self._after)

    def _node(self, place: str, before: Node, after: Node) -> list[Change]:
        """Hold each type that a value could have against the one that is most like it now."""
        found: list[Change] = []
        free = list(_alternatives(after, self._after))
        for was in _alternatives(before, self._before):
            candidates = [it for it in free if _type(it) == _type(was)]
            if not candidates:
                found.append(Change(place, f"can no longer be {_type(was)}", breaking=True))
                continue
            compared = [(self._alternative(place, was, it), it) for it in candidates]
            changes, nearest = min(
                compared, key=lambda pair: (sum(it.breaking for it in pair[0]), len(pair[0]))
            )
            found += changes
            free.remove(nearest)
        found += [Change(place, f"can now be {_type(it)}, too", breaking=self._is_fact) for it in free]
        if any(before.get(name) != after.get(name) for name in WORDS):
            found.append(Change(place or "contract", "is described in other words", breaking=False))
        return found

    def _alternative(self, place: str, before: Node, after: Node) -> list[Change]:
        return [
            *_bounds(place, before, after),
            *self._form(place, before, after),
            *_listed(place, before, after),
            *self._properties(place, before, after),
            *self._items(place, before, after),
            *_unknown(place, before, after),
        ]

    def _form(self, place: str, before: Node, after: Node) -> Iterator[Change]:
        for keyword in ("format", "pattern"):
            was, now = before.get(keyword), after.get(keyword)
            if was != now:
                # Who sends may write more freely now; who reads a fact was told what it looks like.
                breaking = now is not None or (keyword == "format" and self._is_fact)
                yield Change(place, f"{keyword} was {was!r}, is {now!r}", breaking=breaking)

    def _properties(self, place: str, before: Node, after: Node) -> Iterator[Change]:
        was, now = before.get("properties", {}), after.get("properties", {})
        needed_before, needed = set(before.get("required", ())), set(after.get("required", ()))
        closed = before.get("additionalProperties") is False
        for name in was.keys() - now.keys():
            yield Change(_path(place, name), "is gone, or has another name", breaking=True)
        for name in now.keys() - was.keys():
            if name in needed:
                yield Change(
                    _path(place, name), "is new and required: no recorded message has it", breaking=True
                )
            elif closed:
                yield Change(
                    _path(place, name), "is new in an object that took no further field", breaking=True
                )
            else:
                yield Change(_path(place, name), "is new and may be left out", breaking=False)
        for name in was.keys() & now.keys():
            here = _path(place, name)
            if name in needed - needed_before:
                yield Change(here, "is required now: recorded messages may lack it", breaking=True)
            elif name in needed_before - needed:
                yield Change(here, "may be left out now", breaking=False)
            elif was[name].get("default", _ABSENT) != now[name].get("default", _ABSENT):
                told = f"{was[name].get('default')!r}, now means {now[name].get('default')!r}"
                yield Change(here, f"left out, it meant {told}", breaking=True)
            yield from self._node(here, was[name], now[name])
        yield from self._further(place, before, after)

    def _further(self, place: str, before: Node, after: Node) -> Iterator[Change]:
        """Fields that the schema does not name."""
        was, now = before.get("additionalProperties", True), after.get("additionalProperties", True)
        if isinstance(was, Mapping) and isinstance(now, Mapping):
            yield from self._node(_path(place, "*"), was, now)
        elif was != now:
            yield Change(
                _path(place, "*"), "further fields are taken otherwise than before", breaking=now is not True
            )

    def _items(self, place: str, before: Node, after: Node) -> list[Change]:
        if "items" not in before and "items" not in after:
            return []
        return self._node(f"{place}[]", before.get("items", {}), after.get("items", {}))


def _alternatives(node: Node, root: Node) -> Iterator[Node]:
    """Walk the types that a value may have: references are followed, unions are taken apart."""
    if "$ref" in node:
        yield from _alternatives(root["$defs"][node["$ref"].rpartition("/")[2]], root)
    elif "anyOf" in node:
        for inner in node["anyOf"]:
            yield from _alternatives(inner, root)
    else:
        yield node


def _type(node: Node) -> str:
    return str(node.get("type", "anything"))


def _path(place: str, name: str) -> str:
    return f"{place}.{name}" if place else name


def _bounds(place: str, before: Node, after: Node) -> Iterator[Change]:
    for pairs, sign in ((UPPER, 1), (LOWER, -1)):
        for inclusive, exclusive in pairs:
            was, now = (_bound(node, inclusive, exclusive, sign) for node in (before, after))
            if was != now:
                tighter = now < was
                what = f"{inclusive} is {'tighter' if tighter else 'wider'} than before"
                yield Change(place, what, breaking=tighter)


def _bound(node: Node, inclusive: str, exclusive: str | None, sign: int) -> tuple[float, int]:
    """Give a bound so that a smaller one is a tighter one; an exclusive bound is tighter than the same inclusive one."""
    bounds = [(math.inf, 0)]
    if inclusive in node:
        bounds.append((sign * node[inclusive], 0))
    if exclusive is not None and exclusive in node:
        whole = node.get("type") == "integer"
        bounds.append((sign * node[exclusive] - 1, 0) if whole else (sign * node[exclusive], -1))
    return min(bounds)


def _listed(place: str, before: Node, after: Node) -> Iterator[Change]:
    """Values of a list, where only those are taken."""
    was, now = _values(before), _values(after)
    if was is None and now is not None:
        yield Change(place, f"takes only {', '.join(map(repr, now))} now", breaking=True)
    elif was is not None and now is None:
        yield Change(place, "takes any value now", breaking=False)
    elif was is not None and now is not None:
        for value in was:
            if value not in now:
                yield Change(place, f"no longer takes {value!r}", breaking=True)
        for value in now:
            if value not in was:
                yield Change(place, f"takes {value!r}, too", breaking=False)


def _values(node: Node) -> list[Any] | None:
    if "const" in node:
        return [node["const"]]
    values: list[Any] | None = node.get("enum")
    return values


def _unknown(place: str, before: Node, after: Node) -> Iterator[Change]:
    """A keyword that nothing here understands counts as broken when it changes, until somebody teaches us."""
    for name in sorted((before.keys() | after.keys()) - _COMPARED):
        if before.get(name) != after.get(name):
            yield Change(
                place,
                f"{name} has changed, which tests/contracts/compatibility.py cannot judge",
                breaking=True,
            )
