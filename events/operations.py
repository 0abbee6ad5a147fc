"""Operations: what operators did, and why. Written by the command line tool; nobody sends commands here."""

from __future__ import annotations

from uuid import UUID

from events import Event, Instant, Key, ShortText


class TenantAdded(Event):
    """A tenant may send and be served."""

    operation_id: Key[UUID]
    tenant: ShortText
    who: ShortText
    """The operator, or what acted in their name."""
    why: ShortText
    at: Instant


class TenantSuspended(Event):
    """What a tenant sends is parked until the tenant is added again."""

    operation_id: Key[UUID]
    tenant: ShortText
    who: ShortText
    why: ShortText
    at: Instant


class ParkedRedriven(Event):
    """Parked messages were given to their consumer again, in their order."""

    operation_id: Key[UUID]
    consumer: ShortText
    """The consumer that had parked them."""
    messages: list[int]
    """The numbers of the parked messages, as the list of parked messages shows them."""
    who: ShortText
    why: ShortText
    at: Instant


class ParkedDiscarded(Event):
    """A parked message was given up: its consumer will never see it, not on a rebuild either."""

    operation_id: Key[UUID]
    consumer: ShortText
    topic_id: UUID
    partition: int
    offset: int
    """Where it lies in the topic: partition and offset, from 0."""
    who: ShortText
    why: ShortText
    at: Instant


class EffectRetried(Event):
    """An outside effect of unknown outcome is looked up again, and done if it has not happened."""

    operation_id: Key[UUID]
    consumer: ShortText
    """The `async def` handler whose effect it is."""
    effect_id: UUID
    who: ShortText
    why: ShortText
    at: Instant


class EffectAbandoned(Event):
    """An outside effect of unknown outcome is left as it is: an operator has seen to it by other means."""

    operation_id: Key[UUID]
    consumer: ShortText
    """The `async def` handler whose effect it was."""
    effect_id: UUID
    who: ShortText
    why: ShortText
    at: Instant


class PersonErased(Event):
    """The key of a person is destroyed: what was personal about them cannot be read any more, anywhere."""

    operation_id: Key[UUID]
    subject_id: ShortText
    """The person, customer or conversation, by its id."""
    who: ShortText
    why: ShortText
    at: Instant


class ReplayStarted(Event):
    """Recorded messages are given to one consumer once more, or copied to a topic of another environment."""

    operation_id: Key[UUID]
    replay_id: UUID
    """The replay; one that is resumed is started again under the same id."""
    to: ShortText
    """The consumer; or `topic` and its name, for a copy."""
    topic: ShortText
    partitions: list[int]
    from_offsets: list[int]
    """Where it begins, for each of the partitions."""
    until_offsets: list[int]
    """Before which offset it ends, for each of the partitions."""
    key: str | None
    """Only messages of this key, type and tenant, where one is given."""
    type: str | None
    of_tenant: str | None
    most: int | None
    """At most so many messages."""
    again: bool
    """Whether messages that were applied before are applied anew."""
    who: ShortText
    why: str
    """The reason as it was typed; only `again` and outside effects need one."""
    at: Instant


class ReplayEnded(Event):
    """A replay has come to its end, or was interrupted."""

    operation_id: Key[UUID]
    replay_id: UUID
    to: ShortText
    done: bool
    """Whether the whole range was gone through; otherwise it can be resumed."""
    applied: int
    """How many messages were applied (or copied); the other counts are of the same range."""
    duplicates: int
    parked: int
    parked_before: int = 0
    """How many were parked already, and stay so."""
    skipped: int
    who: ShortText
    at: Instant


class RebuildStarted(Event):
    """A new generation of a read model is being built beside the one that serves."""

    operation_id: Key[UUID]
    model: ShortText
    """The read model."""
    serving: int
    """The number of the generation that serves."""
    generation: int
    """The number of the generation that is built."""
    who: ShortText
    why: ShortText
    at: Instant


class RebuildCancelled(Event):
    """A generation that was being built is thrown away; the one that serves has not been touched."""

    operation_id: Key[UUID]
    model: ShortText
    generation: int
    who: ShortText
    why: ShortText
    at: Instant


class RebuildSwitched(Event):
    """Readers see the new generation of a read model; the old one stands by."""

    operation_id: Key[UUID]
    model: ShortText
    before: int
    """The number of the generation that served."""
    generation: int
    """The number of the generation that serves from now on."""
    rows_before: int
    """How many rows the old one had when both were compared, at the same place of the log."""
    rows: int
    """How many rows the new one had there."""
    rows_changed: int
    """How many of them differ, are new or are gone; -1 where the keys differ and no row has its like."""
    who: ShortText
    why: ShortText
    at: Instant


class RebuildRolledBack(Event):
    """Readers see the earlier generation of a read model again; the newer one stands by."""

    operation_id: Key[UUID]
    model: ShortText
    before: int
    """The number of the generation that served."""
    generation: int
    """The number of the generation that serves again."""
    who: ShortText
    why: ShortText
    at: Instant
