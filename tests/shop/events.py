"""Shop: what the tests' own context says and is told."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from events import Command, EmailText, Event, Key, Past, Personal, Refusal, ShortText, Subject

SOON = timedelta(minutes=15)


class Put(Command, public=True, version=2):
    """Put something into a basket."""

    basket_id: Key[UUID]
    amount: int
    colour: ShortText = "red"
    padding: int = 0
    """How many bytes the fact gets on top."""


class PutV1(Past, of="Put", version=1, public=True):
    """Put: when things were counted by the dozen."""

    basket_id: Key[UUID]
    dozens: int

    def upcast(self) -> Put:
        """Count them."""
        return Put(basket_id=self.basket_id, amount=12 * self.dozens)


class Filled(Event):
    """Something was put into a basket."""

    basket_id: Key[UUID]
    amount: int
    total: int
    colour: ShortText
    padding: str = ""


class PutRefused(Refusal):
    """Nothing was put in."""

    basket_id: Key[UUID]


class Move(Command, public=True):
    """Move things from one basket into another."""

    basket_id: Key[UUID]
    other_id: UUID
    amount: int


class Smuggle(Command, public=True):
    """Put something into a basket that the handler does not ask for."""

    basket_id: Key[UUID]
    other_id: UUID


class Split(Command, public=True):
    """Make a new basket, under an id that the engine gives."""

    basket_id: Key[UUID]


class Counted(Event, public=True):
    """Somebody outside has counted a basket."""

    basket_id: Key[UUID]
    total: int
    note: ShortText | None = None


class Join(Command, public=True):
    """Become a member under an address that nobody else has; also a member's new address."""

    member_id: Key[Subject[UUID]]
    email: Personal[EmailText]


class Grab(Command, public=True):
    """Become a member without looking whether the address is taken."""

    member_id: Key[Subject[UUID]]
    email: Personal[EmailText]


class Joined(Event):
    """A member has this address."""

    member_id: Key[Subject[UUID]]
    email: Personal[EmailText]


class JoinRefused(Refusal):
    """The address is somebody else's."""

    member_id: Key[UUID]
    holder: UUID | None


class Close(Command, public=True):
    """Close a till."""

    till_id: Key[UUID]


class Closed(Event):
    """A till is closed."""

    till_id: Key[UUID]


class Pay(Command, public=True):
    """Pay for a basket at a till."""

    basket_id: Key[UUID]
    till_id: UUID


class Paid(Event):
    """A basket is paid for."""

    basket_id: Key[UUID]


class Send(Command, public=True):
    """Send a basket."""

    basket_id: Key[UUID]


class Sent(Event):
    """A basket is on its way."""

    basket_id: Key[UUID]


class Recall(Command, public=True):
    """Get a basket back: it was late."""

    basket_id: Key[UUID]


class Recalled(Event):
    """A basket came back."""

    basket_id: Key[UUID]


class Ship(Command):
    """Ask the carrier to take a basket."""

    basket_id: Key[UUID]


class Shipped(Event):
    """The carrier has taken a basket."""

    basket_id: Key[UUID]
    receipt: str
