"""Each run of a replay is two acts, with who and why: that it began, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from events.operations import ReplayEnded, ReplayStarted
from infra.runtime.engine import Engine
from infra.runtime.operating import acts
from infra.runtime.operating.replay_range import Range
from infra.runtime.operating.replay_steps import Only


@dataclass(frozen=True, slots=True)
class Run:
    """One run, by one operator."""

    replay_id: UUID
    to: str
    range: Range
    only: Only
    limit: int | None
    again: bool
    who: str
    why: str

    async def started(self, engine: Engine) -> None:
        """Keep and publish that it begins."""
        bounds = self.range.offsets
        act = ReplayStarted(
            operation_id=acts.new_operation(),
            replay_id=self.replay_id,
            to=self.to,
            topic=self.range.topic.name,
            partitions=list(bounds),
            from_offsets=[first for first, _ in bounds.values()],
            until_offsets=[until for _, until in bounds.values()],
            key=self.only.key,
            type=self.only.type,
            of_tenant=self.only.tenant,
            most=self.limit,
            again=self.again,
            who=self.who,
            why=self.why,
            at=datetime.now(UTC),
        )
        await self._record(engine, act)

    async def ended(
        self, engine: Engine, *, done: bool, applied: int, duplicates: int, parked: int, skipped: int
    ) -> None:
        """Keep and publish what came of it."""
        act = ReplayEnded(
            operation_id=acts.new_operation(),
            replay_id=self.replay_id,
            to=self.to,
            done=done,
            applied=applied,
            duplicates=duplicates,
            parked=parked,
            skipped=skipped,
            who=self.who,
            at=datetime.now(UTC),
        )
        await self._record(engine, act)

    async def _record(self, engine: Engine, act: ReplayStarted | ReplayEnded) -> None:
        tenant = self.only.tenant or acts.INSTALLATION
        operations = engine.databases["operations"]
        await acts.record(operations, engine.codec, act, tenant=tenant, who=self.who, why=self.why)
