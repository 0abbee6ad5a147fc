"""How much there is of each colour, over all baskets."""

from __future__ import annotations

from uuid import UUID

from events import EmailText, Key, Personal, Subject
from projections import Projection, Query, Row
from tests.shop.events import Filled, Joined

projection = Projection("colours")


class Colour(Row):
    """One colour."""

    colour: Key[str]
    """The colour."""
    total: int = 0
    """How many things there are."""
    fills: int = 0
    """How often something was put in."""


class Basket(Row):
    """One basket."""

    basket_id: Key[UUID]
    """The basket."""
    amounts: list[int]
    """What was put in, in order."""


members = Projection("members")


class Member(Row):
    """One member."""

    member_id: Key[Subject[UUID]]
    """The member."""
    email: Personal[EmailText] | None = None
    """Their address."""


@projection.on
def coloured(event: Filled, row: Colour | None) -> Colour | None:
    """Count; nothing of a colour is no row, and grey cannot be counted."""
    if event.colour == "grey":
        raise RuntimeError("grey")
    was = row or Colour(colour=event.colour)
    total = was.total + event.amount
    if total == 0:
        return None
    return was.model_copy(update={"total": total, "fills": was.fills + 1})


@projection.on
def basket(event: Filled, row: Basket | None) -> Basket:
    """Keep the order."""
    was = row.amounts if row else []
    return Basket(basket_id=event.basket_id, amounts=[*was, event.amount])


@projection.query
class Colours(Query[Colour]):
    """What there is of some colour, or of each."""

    order = ("-total",)

    colour: str | None = None
    """Only this one."""


@members.on
def joined(event: Joined, _row: Member | None) -> Member:
    """Show the address."""
    return Member(member_id=event.member_id, email=event.email)
