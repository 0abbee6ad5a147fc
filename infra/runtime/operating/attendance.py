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
    stopped: str | None
    """Why one of the others does not."""


async def attendance(engine: Engine, wiring: ProjectionWiring, number: int) -> Attendance:
    """Give who attends to a generation by now."""
    (row,) = await engine.databases["projections"].fetch(
        """SELECT count(*) AS processes, count(*) FILTER (WHERE folding) AS folding,
             coalesce(sum(partitions) FILTER (WHERE folding), 0)::int AS partitions, max(stopped) AS stopped
           FROM (SELECT partitions, stopped, stopped IS NULL AS folding
                 FROM heartbeats, LATERAL (SELECT counters ->> 'stopped_because' AS stopped) AS said
                 WHERE consumer = $1 AND beat_at > now() - interval '4 seconds') AS shown""",
        label(wiring.name, number),
    )
    return Attendance(row["processes"], row["folding"], row["partitions"], row["stopped"])
