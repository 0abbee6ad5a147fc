"""Each run of a replay is two acts, with who and why: that it began, and what came of it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime

from events.operations import ReplayEnded, ReplayStarted
from infra.postgres.database import TRANSIENT
from infra.runtime.engine import Engine
from infra.runtime.operating import acts
from infra.runtime.operating.replay_job import Job, TakenOver


@asynccontextmanager
async def recorded(engine: Engine, job: Job, who: str) -> AsyncGenerator[None]:
    """Keep and publish that `who` begins to go on with a replay, and what came of it, then let it go."""
    await _record(engine, job, _started(job, who))
    try:
        yield
    except TakenOver:
        raise
    except BaseException:
        with suppress(*TRANSIENT):
            await _let_go(engine, job, who)
        raise
    await _let_go(engine, job, who)


async def _let_go(engine: Engine, job: Job, who: str) -> None:
    """The act first: after a crash between the two an end may be told twice, but never not at all."""
    await _record(engine, job, _ended(job, who))
    await job.let_go()


def _started(job: Job, who: str) -> ReplayStarted:
    order, bounds = job.order, job.order.range.offsets
    return ReplayStarted(
        operation_id=acts.new_operation(),
        replay_id=job.id,
        to=order.scope[0],
        topic=order.range.topic.name,
        partitions=list(bounds),
        from_offsets=[first for first, _ in bounds.values()],
        until_offsets=[until for _, until in bounds.values()],
        key=order.only.key,
        type=order.only.type,
        of_tenant=order.only.tenant,
        most=order.limit,
        again=order.again,
        who=who,
        why=order.reason,
        at=datetime.now(UTC),
    )


def _ended(job: Job, who: str) -> ReplayEnded:
    total = job.tally.total
    return ReplayEnded(
        operation_id=acts.new_operation(),
        replay_id=job.id,
        to=job.order.scope[0],
        done=job.at_end,
        applied=total.applied,
        duplicates=total.duplicates,
        parked=total.parked,
        parked_before=total.parked_before,
        skipped=job.tally.skipped,
        who=who,
        at=datetime.now(UTC),
    )


async def _record(engine: Engine, job: Job, act: ReplayStarted | ReplayEnded) -> None:
    tenant = job.order.only.tenant or acts.INSTALLATION
    operations = engine.databases["operations"]
    await acts.record(operations, engine.codec, act, tenant=tenant, who=act.who, why=job.order.reason)
