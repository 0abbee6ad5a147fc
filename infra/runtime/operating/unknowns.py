"""Outside effects whose outcome nobody could find out: they hold up their key until an operator decides."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from events.operations import EffectAbandoned, EffectRetried
from infra.postgres.database import Database
from infra.runtime.engine import Engine
from infra.runtime.operating import acts as operations


@dataclass(frozen=True, slots=True)
class UnknownEffect:
    """One effect that waits for an operator."""

    schema: str
    id: UUID
    consumer: str
    tenant: str
    key: str
    type: str
    attempts: int
    error: str
    recorded_at: datetime


async def unknown(database: Database) -> list[UnknownEffect]:
    """List the effects of a schema whose outcome is unknown, the oldest first."""
    rows = await database.fetch(
        """SELECT id, consumer, tenant, key, type, attempts, error, recorded_at FROM effects
           WHERE ended_at IS NULL AND standing = 'unknown' ORDER BY position"""
    )
    return [UnknownEffect(database.schema, *row.values()) for row in rows]


async def retry(engine: Engine, effect: UnknownEffect, *, who: str, why: str) -> bool:
    """Have an effect looked up again; `False` when it is not unknown any more."""
    change = "standing = 'started', attempts = 0, not_before = now(), expires_at = '-infinity'"
    return await _decide(engine, effect, EffectRetried, change, who=who, why=why)


async def abandon(engine: Engine, effect: UnknownEffect, *, who: str, why: str) -> bool:
    """Leave an effect as it is, so that its key goes on; `False` when it is not unknown any more."""
    return await _decide(
        engine, effect, EffectAbandoned, "standing = 'done', ended_at = now()", who=who, why=why
    )


async def _decide(
    engine: Engine,
    effect: UnknownEffect,
    kind: type[EffectRetried | EffectAbandoned],
    change: str,
    *,
    who: str,
    why: str,
) -> bool:
    """Keep the act, then do it: a crash between the two leaves an effect that is unknown, and can be decided again."""
    act = kind(
        operation_id=operations.new_operation(),
        consumer=effect.consumer,
        effect_id=effect.id,
        who=who,
        why=why,
        at=datetime.now(UTC),
    )
    await operations.record(
        engine.databases["operations"], engine.codec, act, tenant=effect.tenant, who=who, why=why
    )
    rows = await engine.databases[effect.schema].fetch(
        f"UPDATE effects SET {change} WHERE id = $1 AND standing = 'unknown' RETURNING 1", effect.id
    )
    return bool(rows)
