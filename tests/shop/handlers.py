"""Shop decides what is in a basket, and who is a member."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Protocol
from uuid import UUID

from events import Claim, EmailText, Erased, Key, Personal, Subject
from handlers import Aggregate, By, Holder, IdempotencyKey, Local, Metadata, NewId, Worker
from tests.shop.events import (
    Close,
    Closed,
    Counted,
    Filled,
    Grab,
    Join,
    Joined,
    JoinRefused,
    Move,
    Paid,
    Pay,
    Put,
    PutRefused,
    Recall,
    Recalled,
    Send,
    Sent,
    Ship,
    Shipped,
    Smuggle,
    Split,
)

worker = Worker("shop")
BROKEN = 13
"""Putting this many in makes the decider raise."""
broken = frozenset({BROKEN})
"""What it cannot stand; a repair of the code would change that."""


class Basket(Aggregate):
    """Things, counted."""

    basket_id: Key[UUID]
    total: int = 0
    paid: bool = False


class Member(Aggregate):
    """Somebody with an address that nobody else has."""

    member_id: Key[Subject[UUID]]
    email: Claim[Personal[EmailText] | None] = None


class Till(Aggregate):
    """Where baskets are paid."""

    till_id: Key[UUID]
    closed: bool = False


class Tills(Local):
    """What is known of a till."""

    till_id: Key[UUID]
    closed: int = 0


class Carrier(Protocol):
    """Takes baskets."""

    async def ship(self, basket_id: UUID, key: str) -> str:
        """Take one; give a receipt."""
        ...

    async def find(self, basket_id: UUID) -> str | None:
        """Give the receipt of one that was taken."""
        ...


@worker.on
def put(asked: Put, basket: Basket) -> Filled | PutRefused:
    """Put things in, but never take any out."""
    if asked.amount in broken:
        raise RuntimeError("thirteen")
    if asked.amount < 0:
        return PutRefused(basket_id=asked.basket_id, reason="amount: is negative")
    return Filled(
        basket_id=asked.basket_id,
        amount=asked.amount,
        total=basket.total + asked.amount,
        colour=asked.colour,
        padding="x" * asked.padding,
    )


@worker.on
def move(asked: Move, basket: Basket, other: Annotated[Basket, By("other_id")]) -> tuple[Filled, ...]:
    """Move things; what is not there cannot be moved."""
    if basket.total < asked.amount:
        return ()
    return (
        Filled(
            basket_id=basket.basket_id,
            amount=-asked.amount,
            total=basket.total - asked.amount,
            colour="moved",
        ),
        Filled(
            basket_id=other.basket_id, amount=asked.amount, total=other.total + asked.amount, colour="moved"
        ),
    )


@worker.on
def smuggle(asked: Smuggle) -> Filled:
    """Write where nothing is locked."""
    return Filled(basket_id=asked.other_id, amount=1, total=1, colour="smuggled")


@worker.on
def split(_: Split, basket: Basket, new_id: NewId, now: datetime) -> Filled:
    """Make a new basket."""
    return Filled(basket_id=new_id(), amount=basket.total, total=basket.total, colour=now.strftime("%Y"))


@worker.adopts
def adopt(event: Counted, basket: Basket, meta: Metadata) -> Counted | PutRefused | None:
    """Believe who counted, unless it makes things vanish."""
    if event.total == basket.total:
        return None
    if event.total < basket.total:
        return PutRefused(basket_id=event.basket_id, reason="total: less than is known")
    return event.model_copy(update={"note": meta.source})


@worker.on
def join(
    asked: Join, member: Member, holder: Annotated[Member | None, Holder("email")]
) -> Joined | JoinRefused:
    """Take the address, unless somebody else has it."""
    if holder is not None and holder.member_id != member.member_id:
        return JoinRefused(member_id=member.member_id, holder=holder.member_id, reason="email: is taken")
    assert not isinstance(asked.email, Erased)
    return Joined(member_id=member.member_id, email=asked.email)


@worker.on
def grab(asked: Grab, member: Member) -> Joined:
    """Take the address, whoever has it."""
    return Joined(member_id=member.member_id, email=asked.email)


@worker.on
def close(asked: Close, till: Till) -> Closed | None:
    """Close it once."""
    return None if till.closed else Closed(till_id=asked.till_id)


@worker.keeps
def noticed(tills: Tills, event: Closed) -> Tills:
    """Count how often it was closed."""
    return tills.model_copy(update={"closed": tills.closed + (event.till_id == tills.till_id)})


@worker.on
def pay(_: Pay, basket: Basket, tills: Annotated[Tills, By("till_id")]) -> Paid | PutRefused:
    """Pay where the till is open."""
    if tills.closed:
        return PutRefused(basket_id=basket.basket_id, reason="till_id: is closed")
    return Paid(basket_id=basket.basket_id)


@worker.on
def send(asked: Send) -> Sent:
    """Send it."""
    return Sent(basket_id=asked.basket_id)


@worker.on
def recall(asked: Recall) -> Recalled:
    """Get it back."""
    return Recalled(basket_id=asked.basket_id)


@worker.on
async def ship(asked: Ship, carrier: Carrier, key: IdempotencyKey) -> Shipped:
    """Hand it over."""
    return Shipped(basket_id=asked.basket_id, receipt=await carrier.ship(asked.basket_id, key))


@worker.finds(ship)
async def find_shipped(asked: Ship, carrier: Carrier) -> Shipped | None:
    """Look whether it was handed over."""
    receipt = await carrier.find(asked.basket_id)
    return Shipped(basket_id=asked.basket_id, receipt=receipt) if receipt else None


@worker.evolves
def filled(basket: Basket, event: Filled) -> Basket:
    """Hold more."""
    return basket.model_copy(update={"total": basket.total + event.amount})


@worker.evolves
def counted(basket: Basket, event: Counted) -> Basket:
    """Hold what was counted."""
    return basket.model_copy(update={"total": event.total})


@worker.evolves
def paid(basket: Basket, _event: Paid) -> Basket:
    """Be paid for."""
    return basket.model_copy(update={"paid": True})


@worker.evolves
def moved_on(basket: Basket, _event: Sent | Recalled | Shipped) -> Basket:
    """Hold the same, elsewhere."""
    return basket


@worker.evolves
def joined(member: Member, event: Joined) -> Member:
    """Have the address."""
    return member.model_copy(update={"email": event.email})


@worker.evolves
def closed(till: Till, _event: Closed) -> Till:
    """Be closed."""
    return till.model_copy(update={"closed": True})
