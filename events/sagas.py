"""Sagas: how each flow moves. Published by the engine, one fact a step; nobody sends commands here."""

from __future__ import annotations

from uuid import UUID

from events import Event, Instant, Key


class SagaAdvanced(Event):
    """A saga took a step: it answered an event or a deadline."""

    instance_id: Key[UUID]
    """The instance, derived from tenant, saga and correlation."""
    saga: str
    """The saga's permanent name."""
    correlation: str
    """The value that its events are correlated by, such as a payment id."""
    step: int
    """Which step of the instance it was, from 1."""
    entered: str
    """The state that the instance is in now."""
    was: str | None
    """The state before; none: the instance began."""
    because: str
    """The type of the message that was answered, or `deadline`."""
    commands: list[str]
    """The types of the commands that were sent."""
    ended: bool
    """Whether the state is a final one."""
    compensated: bool
    """Whether what had been done is undone."""
    stuck: bool
    """Whether an operator is needed."""
    due_at: Instant | None
    """When the state's deadline falls due."""
    at: Instant
    """When the step was taken, by the database's clock."""
