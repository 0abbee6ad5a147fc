"""JSON from strangers means exactly one thing, or is refused with a reason, and cheaply."""

from __future__ import annotations

import json
import time
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.errors import Unacceptable
from infra.runtime.messages.strict_json import MAX_DEPTH, parse

REFUSED = {
    "not UTF-8": (b'{"a": "\xff"}', "not_utf8"),
    "UTF-16": ('{"a": 1}'.encode("utf-16"), "not_utf8"),
    "a byte order mark": (b'\xef\xbb\xbf{"a": 1}', "not_json"),
    "truncated": (b'{"a": [1, 2', "not_json"),
    "something after it": (b"{} {}", "not_json"),
    "single quotes": (b"{'a': 1}", "not_json"),
    "a bare control character": (b'{"a": "\x01"}', "not_json"),
    "NaN": (b'{"a": NaN}', "not_a_number"),
    "Infinity": (b'{"a": Infinity}', "not_a_number"),
    "minus Infinity": (b'{"a": -Infinity}', "not_a_number"),
    "a float out of range": (b'{"a": 1e999}', "not_a_number"),
    "a long float": (b'{"a": 0.' + b"1" * 500 + b"}", "number_too_long"),
    "a field twice": (b'{"a": 1, "b": 2, "a": 1}', "duplicate_field"),
    "a field twice, deep": (b'{"x": [{"a": 1, "\\u0061": 2}]}', "duplicate_field"),
    "deep arrays": (b"[" * 10_000 + b"]" * 10_000, "too_deep"),
    "deep objects": (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, "too_deep"),
    "deep and unfinished": (b"[" * 200_000, "too_deep"),
    "a huge integer": (b'{"a": 1' + b"0" * 400 + b"}", "number_too_long"),
    "an enormous integer": (b"9" * 900_000, "number_too_long"),
    "NUL": (b'{"a": "x\\u0000y"}', "nul_character"),
    "NUL in a name": (b'{"\\u0000": 1}', "nul_character"),
    "a lone surrogate": (b'["\\ud800"]', "lone_surrogate"),
    "a lone surrogate in a name": (b'{"x": {"\\udfff": 1}}', "lone_surrogate"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_ambiguous_or_dangerous_is_refused_within_a_second(name: str) -> None:
    value, reason = REFUSED[name]
    began = time.process_time()
    with pytest.raises(Unacceptable) as refused:
        parse(value)
    assert time.process_time() - began < 1
    assert refused.value.reason == reason
    assert len(refused.value.detail) < 500


def test_braces_within_texts_are_no_depth() -> None:
    text = json.dumps({"a": "[{" * 500 + '"\\'})
    assert parse(text.encode()) == json.loads(text)


def test_the_deepest_that_is_read() -> None:
    assert parse(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH)
    with pytest.raises(Unacceptable):
        parse(b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1))


def test_a_pair_of_surrogates_is_one_character() -> None:
    assert parse(b'["\\ud83d\\ude00"]') == ["\N{GRINNING FACE}"]


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.text(st.characters(exclude_characters="\0", codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=4).filter(lambda it: "\0" not in it), inner, max_size=4)
    ),
    max_leaves=20,
)


@settings(max_examples=100)
@given(values, st.booleans())
def test_everything_else_is_read_as_it_is(value: object, escaped: bool) -> None:  # noqa: FBT001
    assert parse(json.dumps(value, ensure_ascii=escaped).encode()) == value


@settings(max_examples=200)
@given(st.binary(max_size=60) | st.text('{}[]",:0123456789-eE.\\untrfals ', max_size=60).map(str.encode))
def test_no_bytes_raise_anything_but_a_refusal(value: bytes) -> None:
    with suppress(Unacceptable):
        parse(value)
