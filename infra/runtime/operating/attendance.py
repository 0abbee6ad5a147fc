"""Which worker processes attend to a generation of a read model, by the heartbeats that they show."""

from __future__ import annotations

from dataclasses import dataclass

from infra.runtime.catalog import ProjectionWiring
from infra.runtime.consuming.consumer import label
from infra.runtime.engine import Engine


@dataclass(frozen=True, slots=True)
class Attendance:
    """Which worker processes show that they have to do with a generation."""

    processes: int
    folding: int
    """How many of them fold it; the others say why they do not."""
    partitions: int
    """How many partitions those have."""


async def attendance(engine: Engine, wiring: ProjectionWiring, number: int) -> Attendance:
    """Give who attends to a generation by now."""
    (row,) = await engine.databases["projections"].fetch(
        """SELECT count(*) AS processes, count(*) FILTER (WHERE folding) AS folding,
             coalesce(sum(partitions) FILTER (WHERE folding), 0)::int AS partitions
           FROM (SELECT partitions, counters ->> 'stopped_because' IS NULL AS folding FROM heartbeats
                 WHERE consumer = $1 AND beat_at > now() - interval '4 seconds') AS shown""",
        label(wiring.name, number),
    )
    return Attendance(row["processes"], row["folding"], row["partitions"])
