"""Where each flow stands, what is overdue, and which are stuck."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from events import Key
from events.sagas import SagaAdvanced
from projections import Projection, Query, Row, Since, Until

projection = Projection("saga_instances")

Outcome = Literal["under_way", "done", "compensated", "stuck"]


class Instance(Row):
    """One run of one saga."""

    instance_id: Key[UUID]
    """The instance."""
    saga: str
    """The saga's name."""
    correlation: str
    """The value that its events are correlated by, such as a payment id."""
    outcome: Outcome
    """`under_way`; `done`: the promise is kept; `compensated`: what was done is undone; `stuck`: needs an operator."""
    state: str
    """The state it is in."""
    steps: int
    """How many steps it took."""
    due_at: datetime | None
    """When the state's deadline falls due; empty: it has none."""
    began_at: datetime
    """When it took its first step."""
    stepped_at: datetime
    """When it took its latest step."""
    last_because: str
    """The type of the message that its latest step answered, or `deadline`."""
    last_commands: list[str]
    """The types of the commands that its latest step sent."""


@projection.on
def advanced(event: SagaAdvanced, row: Instance | None) -> Instance:
    """Took a step."""
    return Instance(
        instance_id=event.instance_id,
        saga=event.saga,
        correlation=event.correlation,
        outcome=_outcome(event),
        state=event.entered,
        steps=event.step,
        due_at=event.due_at,
        began_at=row.began_at if row is not None else event.at,
        stepped_at=event.at,
        last_because=event.because,
        last_commands=event.commands,
    )


@projection.query
class ByOutcome(Query[Instance]):
    """Instances of a saga, an outcome, a state; the latest step first."""

    order = ("-stepped_at",)

    saga: str | None = None
    """Only those of this saga."""
    outcome: Outcome | None = None
    """Only those that stand like this."""
    state: str | None = None
    """Only those in this state."""
    stepped_since: Annotated[datetime | None, Since("stepped_at")] = None
    """Only those whose latest step was taken at or after this moment."""
    stepped_until: Annotated[datetime | None, Until("stepped_at")] = None
    """Only those whose latest step was taken before this moment."""


@projection.query
class ByCorrelation(Query[Instance]):
    """The flows of one payment, person, and so on."""

    order = ("saga",)

    correlation: str
    """The value that the saga's events are correlated by."""
    saga: str | None = None
    """Only those of this saga."""


@projection.query
class Overdue(Query[Instance]):
    """What should have moved on by a moment, the most overdue first."""

    order = ("due_at",)

    due_until: Annotated[datetime, Until("due_at")]
    """Deadlines before this moment."""
    saga: str | None = None
    """Only those of this saga."""


def _outcome(event: SagaAdvanced) -> Outcome:
    if event.stuck:
        return "stuck"
    if not event.ended:
        return "under_way"
    return "compensated" if event.compensated else "done"
