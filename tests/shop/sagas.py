"""A basket that is paid for is sent within a quarter of an hour, or called back."""

from __future__ import annotations

from typing import Never
from uuid import UUID

from sagas import Compensated, Done, Saga, State, Step, go, stay
from tests.shop.events import SOON, Paid, Recall, Recalled, Send, Sent

saga = Saga("delivery", by="basket_id")


class Sending(State):
    """It is asked for."""

    within = SOON
    basket_id: UUID
    times: int = 0


class Recalling(State):
    """It was too late."""


@saga.starts
def begun(event: Paid) -> Step[Send]:
    """Ask for it."""
    return go(Sending(basket_id=event.basket_id), Send(basket_id=event.basket_id))


@saga.on
def again(was: Sending, event: Paid) -> Step[Send]:
    """Ask once more, from the beginning; twice is too much."""
    if was.times == 2:
        raise RuntimeError("paid too often")
    return go(Sending(basket_id=event.basket_id, times=was.times + 1), Send(basket_id=event.basket_id))


@saga.on
def sent(_: Sending, __: Sent) -> Step[Never]:
    """It is on its way."""
    return go(Done())


@saga.on
def came_back(_: Sending, __: Recalled) -> Step[Never]:
    """Somebody else called it back."""
    return go(Compensated())


@saga.late
def late(was: Sending) -> Step[Recall]:
    """Too late."""
    return go(Recalling(), Recall(basket_id=was.basket_id))


@saga.on
def called_back(_: Recalling, __: Recalled) -> Step[Never]:
    """It is back."""
    return go(Compensated())


@saga.on
def still(_: Recalling, event: Paid | Sent) -> Step[Recall]:
    """Call it back, again."""
    return stay(Recall(basket_id=event.basket_id))


@saga.on
def over(_: Done | Compensated, __: Paid | Sent | Recalled) -> Step[Never]:
    """Nothing more to do."""
    return stay()
