"""JSON from strangers is refused unless it means exactly one thing, and cheaply."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from infra.errors import Unacceptable

MAX_DEPTH = 64
MAX_DIGITS = 40


def parse(value: bytes) -> Any:
    """Read UTF-8 JSON; raise `Unacceptable` for what is ambiguous or dangerous.

    Refused: duplicate keys, NaN and infinities, numbers of more than 40 digits, nesting deeper than 64, NUL characters
    and lone surrogates (neither can be stored).
    """
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError as wrong:
        raise Unacceptable(
            "not_utf8", f"the body is not UTF-8 (byte {wrong.start}); send JSON in UTF-8"
        ) from None
    if _too_deep(text):
        raise Unacceptable("too_deep", f"the body nests deeper than {MAX_DEPTH} levels; send it flatter")
    try:
        parsed = _DECODER.decode(text)
    except json.JSONDecodeError as wrong:
        where = f"line {wrong.lineno} column {wrong.colno}"
        raise Unacceptable("not_json", f"the body is not JSON: {wrong.msg} at {where}") from None
    if "\\u" in text:
        _check_escapes(parsed)
    return parsed


def _too_deep(text: str) -> bool:
    if text.count("{") + text.count("[") <= MAX_DEPTH:
        return False
    depth = 0
    quoted = False
    skip = False
    for character in text:
        if skip:
            skip = False
        elif quoted:
            skip = character == "\\"
            quoted = character != '"'
        elif character == '"':
            quoted = True
        elif character in "{[":
            depth += 1
            if depth > MAX_DEPTH:
                return True
        elif character in "}]":
            depth -= 1
    return False


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise Unacceptable("duplicate_field", f"the field {twice!r} stands twice; send it once")
    return found


def _no_constant(name: str) -> NoReturn:
    raise Unacceptable("not_a_number", f"{name} is no JSON number; send a finite number or null")


def _bounded(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise Unacceptable(
            "number_too_long", f"a number has {len(digits)} digits; at most {MAX_DIGITS} are read"
        )
    return int(digits)


def _float(digits: str) -> float:
    if len(digits) > MAX_DIGITS:
        raise Unacceptable(
            "number_too_long", f"a number has {len(digits)} digits; at most {MAX_DIGITS} are read"
        )
    number = float(digits)
    if number in (float("inf"), float("-inf")):
        raise Unacceptable("not_a_number", f"{digits[:40]} is out of range; send a finite number")
    return number


_DECODER = json.JSONDecoder(
    object_pairs_hook=_once_each, parse_constant=_no_constant, parse_int=_bounded, parse_float=_float
)


def _check_escapes(value: object) -> None:
    match value:
        case str():
            if "\0" in value:
                raise Unacceptable("nul_character", "a text holds the character U+0000; send it without")
            try:
                value.encode("utf-8")
            except UnicodeEncodeError:
                raise Unacceptable(
                    "lone_surrogate", "a text holds a lone surrogate; send valid Unicode"
                ) from None
        case dict():
            for name, inner in value.items():
                _check_escapes(name)
                _check_escapes(inner)
        case list():
            for inner in value:
                _check_escapes(inner)
        case _:
            pass
