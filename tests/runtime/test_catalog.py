"""What does not fit together is found at the start, with the name of the culprit."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Generator
from types import ModuleType

import pytest

from infra.errors import WiringError
from infra.runtime.catalog import Catalog, discover
from tests.shop.bench import shop, wire

HEADER = """
from __future__ import annotations
from datetime import datetime, timedelta
from typing import Annotated, Literal, Never, Protocol
from uuid import UUID
from events import *
from events import Event, Key, Past
from handlers import *
from sagas import *
from projections import *
"""
EVENTS = """
class Open(Command, public=True):
    door_id: Key[UUID]

class Opened(Event):
    door_id: Key[UUID]
    by: str = ""
"""
HANDLERS = """
from events.doors import *
worker = Worker("doors")

class Door(Aggregate):
    door_id: Key[UUID]

@worker.on
def open_door(asked: Open, door: Door) -> Opened:
    return Opened(door_id=asked.door_id)

@worker.evolves
def opened(door: Door, event: Opened) -> Door:
    return door
"""
SAGAS = """
from events.doors import *
saga = Saga("closing", by="door_id")

class Ajar(State):
    pass

@saga.starts
def begun(event: Opened) -> Step[Open]:
    return go(Ajar())

@saga.on
def again(_: Ajar, __: Opened) -> Step[Never]:
    return stay()
"""
PROJECTIONS = '''
from events.doors import *
projection = Projection("doors")

class Row1(Row):
    """One."""
    door_id: Key[UUID]
    """Two."""

@projection.on
def seen(event: Opened, row: Row1 | None) -> Row1:
    return Row1(door_id=event.door_id)
'''


@pytest.fixture(autouse=True)
def _forget_modules() -> Generator[None]:
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.rpartition(".")[2] in {"doors", "windows"}:
            del sys.modules[name]


def module(name: str, source: str) -> ModuleType:
    """Make a module out of source text."""
    made = ModuleType(name)
    sys.modules[name] = made
    exec(compile(HEADER + textwrap.dedent(source), name, "exec"), made.__dict__)  # noqa: S102 - modules that would not start
    return made


def wired(events: str = "", handlers: str = "", sagas: str = "", projections: str = "") -> Catalog:
    """Wire the doors with something more, or without some of their text."""
    return wire(
        [module("events.doors", EVENTS + textwrap.dedent(events))],
        [module("handlers.doors", HANDLERS + textwrap.dedent(handlers))],
        [module("sagas.doors", SAGAS + textwrap.dedent(sagas))],
        [module("projections.doors", PROJECTIONS + textwrap.dedent(projections))],
    )


def test_the_doors_fit_together() -> None:
    catalog = wired()
    assert set(catalog.consumers) == {"doors", "sagas.closing", "projections.doors"}


def test_the_platform_fits_together() -> None:
    assert set(discover().workers) >= {"identity", "accounts", "payments", "entitlements", "customers"}


def test_the_shop_fits_together() -> None:
    wiring = shop().consumers
    assert wiring["shop"].topics == ("shop.commands", "shop.events", "shop.inbound")
    assert wiring["shop"].first_start == "beginning"
    assert wiring["shop.ship"].first_start == "end"
    assert wiring["sagas.delivery"].first_start == "end"
    assert wiring["projections.colours"].first_start == "beginning"


NEW_COMMAND = "class Shut(Command):\n    door_id: Key[UUID]\n"

CULPRITS: dict[str, tuple[dict[str, str], list[str]]] = {
    # events
    "a message without a key": ({"events": "class Shut(Event):\n    x: int\n"}, ["events.doors.Shut", "Key"]),
    "a message with two keys": (
        {"events": "class Shut(Event):\n    a: Key[UUID]\n    b: Key[UUID]\n"},
        ["events.doors.Shut", "2"],
    ),
    "a message that is neither": (
        {"events": "class Shut(Message):\n    door_id: Key[UUID]\n"},
        ["doors.Shut"],
    ),
    "personal without a subject": (
        {"events": "class Shut(Event):\n    door_id: Key[UUID]\n    who: Personal[str]\n"},
        ["events.doors.Shut", "Subject"],
    ),
    "personal with two subjects": (
        {
            "events": "class Shut(Event):\n    door_id: Key[Subject[UUID]]\n    x: Subject[UUID]\n    who: Personal[str]\n"
        },
        ["events.doors.Shut", "Subject"],
    ),
    "an old version without a new one": (
        {"events": "class ShutV1(Past, of='Shut', version=1):\n    door_id: Key[UUID]\n"},
        ["doors.Shut", "no newer"],
    ),
    "a version left out": (
        {
            "events": "class Shut(Command, version=3):\n    door_id: Key[UUID]\nclass ShutV1(Past, of='Shut', version=1):\n    door_id: Key[UUID]\n"
        },
        ["doors.Shut", "version 2"],
    ),
    "a version twice": (
        {
            "events": "class Shut(Command, version=2):\n    door_id: Key[UUID]\nclass ShutV1(Past, of='Shut', version=1):\n    door_id: Key[UUID]\nclass ShutOld(Past, of='Shut', version=1):\n    door_id: Key[UUID]\n"
        },
        ["doors.Shut", "version 1", "twice"],
    ),
    # handlers
    "a command that nobody answers": ({"events": NEW_COMMAND}, ["doors.Shut", "nobody"]),
    "a command that two answer": (
        {"handlers": "@worker.on\ndef other(asked: Open, door: Door) -> Opened: ...\n"},
        ["doors.Open", "open_door", "other"],
    ),
    "a command that a decider and an action answer": (
        {"handlers": "@worker.on\nasync def other(asked: Open) -> Opened: ...\n"},
        ["doors.Open", "open_door", "other"],
    ),
    "a public command that only an action answers": (
        {
            "events": "class Shut(Command, public=True):\n    door_id: Key[UUID]\n",
            "handlers": "@worker.on\nasync def shut(asked: Shut) -> Opened: ...\n",
        },
        ["doors.Shut", "public"],
    ),
    "a parameter that nothing fits": (
        {
            "events": NEW_COMMAND,
            "handlers": "@worker.on\ndef shut(asked: Shut, weather: int) -> Opened: ...\n",
        },
        ["handlers.doors.shut", "weather", "int"],
    ),
    "a parameter without an annotation": (
        {"events": NEW_COMMAND, "handlers": "@worker.on\ndef shut(asked: Shut, weather) -> Opened: ...\n"},
        ["handlers.doors.shut", "weather"],
    ),
    "an annotation that does not resolve": (
        {
            "events": NEW_COMMAND,
            "handlers": "@worker.on\ndef shut(asked: Shut, weather: Rain) -> Opened: ...\n",
        },
        ["handlers.doors.shut", "Rain"],
    ),
    "a port in a decider": (
        {
            "events": NEW_COMMAND,
            "handlers": "class Smith(Protocol):\n    ...\n@worker.on\ndef shut(asked: Shut, smith: Smith) -> Opened: ...\n",
        },
        ["handlers.doors.shut", "smith", "async def"],
    ),
    "an aggregate that the message does not name": (
        {
            "events": NEW_COMMAND,
            "handlers": "class House(Aggregate):\n    house_id: Key[UUID]\n@worker.on\ndef shut(asked: Shut, house: House) -> Opened: ...\n",
        },
        ["handlers.doors.shut", "Shut", "house_id"],
    ),
    "a field for another aggregate that is not there": (
        {
            "events": NEW_COMMAND,
            "handlers": "@worker.on\ndef shut(asked: Shut, door: Annotated[Door, By('other_id')]) -> Opened: ...\n",
        },
        ["handlers.doors.shut", "other_id"],
    ),
    "a claim that is not there": (
        {
            "events": NEW_COMMAND,
            "handlers": "@worker.on\ndef shut(asked: Shut, door: Annotated[Door | None, Holder('door_id', 'lock')]) -> Opened: ...\n",
        },
        ["handlers.doors.shut", "Door", "lock"],
    ),
    "a fact that is folded into nothing": (
        {"events": "class Shut(Event):\n    door_id: Key[UUID]\n"},
        ["doors.Shut", "evolves"],
    ),
    "a fact that is folded twice": (
        {"handlers": "@worker.evolves\ndef once_more(door: Door, event: Opened) -> Door: ...\n"},
        ["once_more", "doors.Opened"],
    ),
    "a fact that is folded into the wrong aggregate": (
        {
            "events": "class Shut(Event):\n    house_id: Key[UUID]\n",
            "handlers": "@worker.evolves\ndef shut(door: Door, event: Shut) -> Door: ...\n",
        },
        ["doors.Shut", "house_id", "Door"],
    ),
    "a refusal of no aggregate": (
        {"events": "class No(Refusal):\n    house_id: Key[UUID]\n"},
        ["doors.No", "house_id"],
    ),
    "a public fact that nobody adopts": (
        {
            "events": "class Seen(Event, public=True):\n    door_id: Key[UUID]\n",
            "handlers": "@worker.evolves\ndef seen(door: Door, event: Seen) -> Door: ...\n",
        },
        ["doors.Seen", "adopts"],
    ),
    "an adopter that acts": (
        {"handlers": "@worker.adopts\nasync def adopt(event: Seen, door: Door) -> Opened: ...\n"},
        ["handlers.doors.adopt", "must be a `def`"],
    ),
    "a fold that acts": (
        {
            "projections": "@projection.on\nasync def shut(event: Opened, row: Row1 | None) -> Row1: ...\n",
        },
        ["projections.doors.shut", "must be a `def`"],
    ),
    "a private fact that is adopted": (
        {"handlers": "@worker.adopts\ndef adopt(event: Opened, door: Door) -> Opened: ...\n"},
        ["adopt", "doors.Opened"],
    ),
    "a state without defaults": (
        {
            "events": NEW_COMMAND,
            "handlers": "class Lock(Aggregate):\n    door_id: Key[UUID]\n    turns: int\n@worker.on\ndef shut(asked: Shut, lock: Lock) -> Opened: ...\n",
        },
        ["Lock", "turns", "default"],
    ),
    "two aggregates under one key": (
        {
            "events": NEW_COMMAND,
            "handlers": "class Lock(Aggregate):\n    door_id: Key[UUID]\n@worker.on\ndef shut(asked: Shut, lock: Lock) -> Opened: ...\n",
        },
        ["doors", "door_id"],
    ),
    "a worker twice": ({"handlers": 'other = Worker("doors")\n'}, ["doors"]),
    "somebody else's fact published": (
        {
            "events": NEW_COMMAND,
            "handlers": "from events.sagas import SagaAdvanced\n@worker.on\ndef shut(asked: Shut, door: Door) -> SagaAdvanced: ...\n",
        },
        ["handlers.doors.shut", "sagas.SagaAdvanced"],
    ),
    "an action's outcome that is somebody else's": (
        {
            "events": NEW_COMMAND,
            "handlers": "from events.sagas import SagaAdvanced\n@worker.on\nasync def shut(asked: Shut) -> SagaAdvanced: ...\n",
        },
        ["handlers.doors.shut", "sagas.SagaAdvanced"],
    ),
    "something that is no message": (
        {"handlers": "@worker.on\ndef shut(asked: int, door: Door) -> Opened: ...\n"},
        ["handlers.doors.shut"],
    ),
    # sagas
    "a pair of state and event without a move": (
        {
            "events": "class Shut(Event):\n    door_id: Key[UUID]\n",
            "handlers": "@worker.evolves\ndef shut(door: Door, event: Shut) -> Door: ...\n",
            "sagas": "class Wide(State):\n    pass\n@saga.on\ndef more(_: Wide, __: Opened | Shut) -> Step[Never]: ...\n",
        },
        ["closing", "Ajar", "doors.Shut"],
    ),
    "a deadline that nobody answers": (
        {
            "sagas": "class Wide(State):\n    within = timedelta(minutes=1)\n@saga.on\ndef more(_: Wide, __: Opened) -> Step[Never]: ...\n"
        },
        ["closing", "Wide", "late"],
    ),
    "an answer to no deadline": (
        {"sagas": "@saga.late\ndef late(was: Ajar) -> Step[Never]: ...\n"},
        ["late", "Ajar", "within"],
    ),
    "two moves for one pair": (
        {"sagas": "@saga.on\ndef more(_: Ajar, __: Opened) -> Step[Never]: ...\n"},
        ["more", "Ajar", "doors.Opened"],
    ),
    "an event that cannot be correlated": (
        {
            "events": "class Rang(Event):\n    bell_id: Key[UUID]\n",
            "handlers": "class Bell(Aggregate):\n    bell_id: Key[UUID]\n@worker.evolves\ndef rang(bell: Bell, event: Rang) -> Bell: ...\n",
            "sagas": "@saga.on\ndef rang(_: Ajar, __: Rang) -> Step[Never]: ...\n",
        },
        ["closing", "Rang", "door_id"],
    ),
    "a saga that publishes a fact": (
        {
            "sagas": "class Wide(State):\n    pass\n@saga.on\ndef more(_: Wide, __: Opened) -> Step[Opened]: ...\n"
        },
        ["closing", "more", "Opened"],
    ),
    "a saga twice": ({"sagas": 'other = Saga("closing", by="door_id")\n'}, ["sagas.closing"]),
    # projections
    "a row that is not the second parameter": (
        {"projections": "@projection.on\ndef odd(event: Opened, row: int) -> Row1: ...\n"},
        ["projections.doors.odd", "row"],
    ),
    "a row without a key": (
        {
            "projections": '@projection.on\ndef odd(event: Opened, row: Row2 | None) -> Row2: ...\nclass Row2(Row):\n    """One."""\n    x: int\n    """Two."""\n'
        },
        ["projections.doors.odd", "Row2", "Key"],
    ),
    "a key that the event does not have": (
        {
            "projections": '@projection.on\ndef odd(event: Opened, row: Row2 | None) -> Row2: ...\nclass Row2(Row):\n    """One."""\n    colour: Key[str]\n    """Two."""\n'
        },
        ["projections.doors.odd", "colour", "Opened"],
    ),
    "a path that the event does not have": (
        {
            "projections": '@projection.on(colour="by.colour")\ndef odd(event: Opened, row: Row2 | None) -> Row2: ...\nclass Row2(Row):\n    """One."""\n    colour: Key[str]\n    """Two."""\n'
        },
        ["projections.doors.odd", "by.colour", "Opened"],
    ),
    "a command that is projected": (
        {"projections": "@projection.on\ndef odd(event: Open, row: Row1 | None) -> Row1: ...\n"},
        ["projections.doors.odd", "doors.Open"],
    ),
    "a question about another's rows": (
        {
            "projections": 'class Row2(Row):\n    """One."""\n    colour: Key[str]\n    """Two."""\n@projection.query\nclass Odd(Query[Row2]):\n    """Three."""\n'
        },
        ["Odd", "Row2"],
    ),
    "a projection twice": ({"projections": 'other = Projection("doors")\n'}, ["projections.doors"]),
}


@pytest.mark.parametrize("name", CULPRITS)
def test_the_culprit_is_named(name: str) -> None:
    parts, named = CULPRITS[name]
    with pytest.raises(WiringError) as found:
        wired(**parts)
    for word in named:
        assert word in str(found.value), str(found.value)


def test_only_a_row_that_one_partition_alone_reaches_goes_without_a_lock() -> None:
    models = {**shop().projections, **discover().projections}
    owned = {
        wiring.rows[row]: row in wiring.owned
        for name in ("colours", "customer_spend", "payment_history", "saga_instances")
        for wiring in [models[f"projections.{name}"]]
        for row in wiring.rows
    }
    assert owned == {
        "colours": False,  # keyed by a colour, reached from every basket
        "colours_basket": True,
        "customer_spend": False,  # keyed by customer, reached from every payment
        "payment_history": True,
        "saga_instances": True,
    }
