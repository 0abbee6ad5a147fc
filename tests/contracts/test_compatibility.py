"""Breaking changes are told from those that only add: each of these mutants of one contract is judged as it should be."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from pydantic import BaseModel, ConfigDict, Field, create_model

from events import Command, Event, Instant, ShortText
from tests.contracts.compatibility import compare

GONE: Any = None


def maybe(kind: Any) -> Any:
    """The type, or nothing."""
    return kind | None


class Open(BaseModel):
    """An amount, and whatever else."""

    minor: int


class Closed(Open):
    """An amount, and nothing else."""

    model_config = ConfigDict(extra="forbid")


class Wider(Closed):
    """An amount with a field more."""

    scale: int = 2


FIELDS: dict[str, Any] = {
    "payment_id": (UUID, ...),
    "amount": (Closed, ...),
    "channel": (Literal["web", "till"], ...),
    "code": (Annotated[str, Field(pattern="^[A-Z]+$")], ...),
    "note": (maybe(ShortText), None),
    "tags": (Annotated[list[ShortText], Field(max_length=5)], []),
    "share": (Annotated[float, Field(gt=0, lt=1)], 0.5),
    "tries": (Annotated[int, Field(ge=1, lt=100)], 1),
    "word": (str, ...),
}


def paid(
    base: type[BaseModel] = Event, changed: dict[str, Any] | None = None, **standing: Any
) -> dict[str, Any]:
    """The snapshot of a contract with some of its fields, or of what else is said of it, changed."""
    fields = {name: it for name, it in {**FIELDS, **(changed or {})}.items() if it is not GONE}
    return {
        "kind": "event" if base is Event else "command",
        "public": True,
        "key": "payment_id",
        "personal": ["note"],
        "subject": "payment_id",
        "schema": create_model("Paid", __base__=base, **fields).model_json_schema(),
        **standing,
    }


BREAKING_FOR_ALL: dict[str, tuple[dict[str, Any], str]] = {
    "a field is removed": ({"word": GONE}, "word"),
    "a field that may be left out is removed": ({"tries": GONE}, "tries"),
    "a field is renamed": ({"note": GONE, "remark": (maybe(ShortText), None)}, "note"),
    "a field is new and required": ({"teller": (str, ...)}, "teller"),
    "a field is required from now on": ({"tries": (Annotated[int, Field(ge=1, lt=100)], ...)}, "tries"),
    "a text becomes a number": ({"word": (int, ...)}, "word"),
    "a whole number becomes any number": ({"tries": (Annotated[float, Field(ge=1, lt=100)], 1)}, "tries"),
    "a value becomes a list": ({"word": (list[str], ...)}, "word"),
    "a list becomes a value": ({"tags": (ShortText, "")}, "tags"),
    "an object becomes a number": ({"amount": (int, ...)}, "amount"),
    "an id becomes a moment": ({"payment_id": (Instant, ...)}, "payment_id"),
    "a text becomes an id": ({"word": (UUID, ...)}, "word"),
    "nothing is no longer taken": ({"note": (ShortText, "-")}, "note"),
    "a text may be shorter only": (
        {"note": (maybe(Annotated[str, Field(min_length=1, max_length=99)]), None)},
        "note",
    ),
    "a text must be longer": (
        {"note": (maybe(Annotated[str, Field(min_length=2, max_length=255)]), None)},
        "note",
    ),
    "a text is bounded": ({"word": (ShortText, ...)}, "word"),
    "a text gets a pattern": ({"word": (Annotated[str, Field(pattern="^a")], ...)}, "word"),
    "a pattern changes": ({"code": (Annotated[str, Field(pattern="^[A-Z]{3}$")], ...)}, "code"),
    "an upper bound falls": ({"tries": (Annotated[int, Field(ge=1, lt=99)], 1)}, "tries"),
    "a lower bound rises": ({"tries": (Annotated[int, Field(ge=2, lt=100)], 1)}, "tries"),
    "an inclusive bound becomes exclusive": ({"tries": (Annotated[int, Field(gt=1, lt=100)], 1)}, "tries"),
    "a step is asked for": ({"tries": (Annotated[int, Field(ge=1, lt=100, multiple_of=5)], 1)}, "tries"),
    "a list may be shorter only": ({"tags": (Annotated[list[ShortText], Field(max_length=4)], [])}, "tags"),
    "a list needs an item": (
        {"tags": (Annotated[list[ShortText], Field(min_length=1, max_length=5)], [])},
        "tags",
    ),
    "what a list holds is tighter": (
        {
            "tags": (
                Annotated[list[Annotated[str, Field(min_length=1, max_length=9)]], Field(max_length=5)],
                [],
            )
        },
        "tags[]",
    ),
    "a word of a list is removed": ({"channel": (Literal["web"], ...)}, "channel"),
    "a word of a list is renamed": ({"channel": (Literal["web", "shop"], ...)}, "channel"),
    "only listed words are taken": ({"word": (Literal["a", "b"], ...)}, "word"),
    "left out, it means something else": ({"tries": (Annotated[int, Field(ge=1, lt=100)], 2)}, "tries"),
    "a closed object gets a field": ({"amount": (Wider, ...)}, "amount.scale"),
}

BREAKING_FOR_READERS: dict[str, tuple[dict[str, Any], str]] = {
    "a value may be missing": ({"word": (str | None, ...)}, "word"),
    "a value may be of another type, too": ({"word": (str | int, ...)}, "word"),
    "an id becomes any text": ({"payment_id": (str, ...)}, "payment_id"),
}

ADDING: dict[str, tuple[dict[str, Any], str]] = {
    "a field that may be left out": ({"teller": (maybe(ShortText), None)}, "teller"),
    "a field with a default": ({"teller": (str, "nobody")}, "teller"),
    "a field may be left out": ({"word": (str, "")}, "word"),
    "a text may be longer": (
        {"note": (maybe(Annotated[str, Field(min_length=1, max_length=256)]), None)},
        "note",
    ),
    "a text may be empty": ({"note": (maybe(Annotated[str, Field(max_length=255)]), None)}, "note"),
    "an upper bound rises": ({"tries": (Annotated[int, Field(ge=1, lt=101)], 1)}, "tries"),
    "a bound is lifted": ({"tries": (Annotated[int, Field(ge=1)], 1)}, "tries"),
    "an exclusive bound becomes inclusive": ({"share": (Annotated[float, Field(ge=0, lt=1)], 0.5)}, "share"),
    "a word more in a list": ({"channel": (Literal["web", "till", "phone"], ...)}, "channel"),
    "any word instead of listed ones": ({"channel": (str, ...)}, "channel"),
    "a pattern is lifted": ({"code": (str, ...)}, "code"),
    "a list may be longer": ({"tags": (Annotated[list[ShortText], Field(max_length=6)], [])}, "tags"),
    "other words": ({"word": (Annotated[str, Field(description="What was said.")], ...)}, "word"),
    "a closed object is opened": ({"amount": (Open, ...)}, "amount.*"),
}

STANDING: dict[str, tuple[dict[str, Any], str]] = {
    "another key": ({"key": "word"}, "key"),
    "no longer public": ({"public": False}, "public"),
    "a fact becomes a command": ({"kind": "command"}, "kind"),
    "another subject": ({"subject": "word"}, "subject"),
    "no longer personal": ({"personal": []}, "note"),
    "personal from now on": ({"personal": ["note", "word"]}, "word"),
}


@pytest.mark.parametrize("base", [Event, Command])
def test_the_same_is_no_change(base: type[BaseModel]) -> None:
    assert compare(paid(base), paid(base)) == []


@pytest.mark.parametrize("base", [Event, Command])
@pytest.mark.parametrize("mutant", BREAKING_FOR_ALL)
def test_breaks_whoever_sends_it(mutant: str, base: type[BaseModel]) -> None:
    changed, place = BREAKING_FOR_ALL[mutant]
    assert place in {change.place for change in compare(paid(base), paid(base, changed)) if change.breaking}


@pytest.mark.parametrize("mutant", BREAKING_FOR_READERS)
def test_breaks_whoever_reads_a_fact_and_nobody_who_sends_a_command(mutant: str) -> None:
    changed, place = BREAKING_FOR_READERS[mutant]
    assert place in {change.place for change in compare(paid(), paid(changed=changed)) if change.breaking}
    found = compare(paid(Command), paid(Command, changed))
    assert found
    assert not any(change.breaking for change in found)


@pytest.mark.parametrize("base", [Event, Command])
@pytest.mark.parametrize("mutant", ADDING)
def test_only_adds(mutant: str, base: type[BaseModel]) -> None:
    changed, place = ADDING[mutant]
    found = compare(paid(base), paid(base, changed))
    assert place in {change.place for change in found}
    assert [str(change) for change in found if change.breaking] == []


@pytest.mark.parametrize("mutant", STANDING)
def test_breaks_what_is_said_beside_the_schema(mutant: str) -> None:
    changed, place = STANDING[mutant]
    assert place in {change.place for change in compare(paid(), paid(**changed)) if change.breaking}


def test_may_become_public() -> None:
    (change,) = compare(paid(public=False), paid())
    assert not change.breaking


def test_an_object_is_closed() -> None:
    found = compare(paid(changed={"amount": (Open, ...)}), paid())
    assert [change.place for change in found if change.breaking] == ["amount.*"]


def test_a_new_personal_field_only_adds() -> None:
    after = paid(changed={"teller": (maybe(ShortText), None)}, personal=["note", "teller"])
    assert [change for change in compare(paid(), after) if change.breaking] == []
