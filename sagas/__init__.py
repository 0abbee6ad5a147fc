"""The vocabulary of sagas: flows that cross services, one module per promise that the business makes.

    \"\"\"A paid customer gets access within fifteen minutes, or the money back.\"\"\"
    saga = Saga("activation", by="payment_id")

    class Granting(State):
        within = timedelta(minutes=15)

    @saga.starts
    def paid(event: PaymentCompleted) -> Step[GrantAccess]:
        return go(Granting(), GrantAccess(...))

    @saga.on
    def granted(_: Granting, __: AccessGranted) -> Step[Never]:
        return go(Done())

    @saga.late
    def overdue(was: Granting) -> Step[RequestRefund]: ...

Moves are pure: `(state, event) -> step`. `new_id: NewId`, `now: datetime` and `meta: Metadata` are injected as in
`handlers`. Every state answers every event that the saga listens to, ended ones included: a pair without a move fails
the start-up check. An event whose correlation field is `None` is not the saga's; one that comes before its saga waits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, ClassVar, Generic, TypeVar

from events import Command, Event, Folded

__all__ = ["Compensated", "Done", "Ended", "Saga", "State", "Step", "Stuck", "go", "stay"]

C_co = TypeVar("C_co", bound=Command, covariant=True)
C = TypeVar("C", bound=Command)
Move = TypeVar("Move", bound=Callable[..., "Step[Any]"])
S = TypeVar("S", bound="State")


class State(Folded):
    """Where a flow stands, with what it must remember. Entering a state sets its deadline; leaving it revokes it."""

    within: ClassVar[timedelta | None] = None
    """How long the flow may stay here before its `late` move fires."""

    def upcast(self) -> State:
        """Give the state that a superseded one has become; flows that were in it when the code changed go on there."""
        return self


class Ended(State):
    """A final state: the row stays and answers what still comes."""


class Done(Ended):
    """The promise is kept."""


class Compensated(Ended):
    """The promise could not be kept, and what had been done is undone."""


class Stuck(State):
    """Compensation did not succeed: an operator is needed, and alarmed."""

    why: str


@dataclass(frozen=True, slots=True)
class Step(Generic[C_co]):
    """What a move decides: the state to enter (`None`: stay, deadline untouched) and the commands to send."""

    enter: State | None
    commands: tuple[C_co, ...]


def go(state: State, *commands: C) -> Step[C]:
    """Enter `state` (anew, if it is the present one: its deadline starts again) and send `commands`."""
    return Step(state, commands)


def stay(*commands: C) -> Step[C]:
    """Remain in the present state, its deadline untouched, and send `commands`."""
    return Step(None, commands)


class Saga:
    """One flow. Its name is permanent; `by` is the field that correlates its events (a move may name another)."""

    def __init__(self, name: str, *, by: str) -> None:
        """Make the saga `name`, whose instances are told apart by the events' field `by`."""
        self.name = name
        self.by = by
        self.starters: list[Callable[..., Step[Any]]] = []
        self.moves: list[Callable[..., Step[Any]]] = []
        self.deadlines: list[Callable[..., Step[Any]]] = []
        self.correlations: dict[type[Event], str] = {}
        self.past: list[type[State]] = []

    def superseded(self, state: type[S]) -> type[S]:
        """Keep an old state readable: no move answers it, as its `upcast` says what it is now."""
        self.past.append(state)
        return state

    def starts(self, function: Move) -> Move:
        """Begin an instance when this event comes and there is none yet: `(event) -> step`."""
        self.starters.append(function)
        return function

    def on(self, function: Move) -> Move:
        """Answer an event in a state: `(state, event) -> step`. Either may be a union."""
        self.moves.append(function)
        return function

    def late(self, function: Move) -> Move:
        """Answer the deadline of a state: `(state) -> step`. It fires only once all inputs are consumed past it."""
        self.deadlines.append(function)
        return function

    def correlates(self, event: type[Event], *, by: str) -> None:
        """Correlate `event` by another of its fields than the saga's own."""
        self.correlations[event] = by
