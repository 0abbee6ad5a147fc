"""How messages come to a consumer: from its topics as always, or from a replay."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID


@dataclass(frozen=True, slots=True)
class Delivery:
    """One way by which messages come to `consumer`."""

    consumer: str
    repeated: bool = False
    """From a replay: what came of a message may exist already, and is left out before it changes anything."""
    anew: UUID | None = None
    """The replay in which messages count as new ones, whatever has come of them before."""

    @property
    def of_replay(self) -> bool:
        """Whether a replay delivers."""
        return self.repeated or self.anew is not None

    @property
    def scope(self) -> str:
        """What inbox marks and the ids of outputs are derived from."""
        return self.consumer if self.anew is None else f"{self.consumer}/{self.anew}"
