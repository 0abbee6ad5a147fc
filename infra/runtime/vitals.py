"""What everything that runs shows of itself: when it last made a turn, what it has done, why it stopped."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Vitals:
    """What a consumer shows of itself."""

    turned_at: float = field(default_factory=time.time)
    partitions: int = 0
    stopped_because: str | None = None
    counters: dict[str, int] = field(default_factory=dict)

    def count(self, **more: int) -> None:
        """Add to the counters."""
        for name, number in more.items():
            self.counters[name] = self.counters.get(name, 0) + number

    def shown(self) -> dict[str, Any]:
        """Give the counters for a heartbeat, with the reason of a stop."""
        if self.stopped_because is None:
            return dict(self.counters)
        return {**self.counters, "stopped_because": self.stopped_because}
