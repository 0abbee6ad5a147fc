"""What every function may ask for beside states: fresh ids, metadata; and how what it returns is read."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import UUID

from events import Message, Metadata
from infra.runtime.messages.envelope import Envelope
from infra.runtime.messages.ids import derived_id


class Ids:
    """Fresh ids for one message: the same again at every retry."""

    def __init__(self, consumer: str, cause: Envelope) -> None:
        """Derive from the message that is folded."""
        self._cause = (consumer, cause.tenant, cause.source, cause.id)
        self._given = 0

    def __call__(self) -> UUID:
        """Give the next id."""
        self._given += 1
        return derived_id(*self._cause, f"new-{self._given}")


def metadata_of(it: Envelope) -> Metadata:
    """Give what a function may know of the envelope."""
    return Metadata(it.tenant, it.source, it.id, it.correlation, it.causation, it.time)


def flattened(result: object) -> Iterator[Message]:
    """Walk what a function returned: a message, several, or nothing."""
    if isinstance(result, Message):
        yield result
    elif isinstance(result, list | tuple):
        for item in result:
            yield from flattened(item)
    elif result is not None:
        raise TypeError(f"returned {type(result).__name__}; return messages")
