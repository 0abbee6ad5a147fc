"""Erasing a person: the key that seals everything personal about them is destroyed, and so is what finds them.

Events, states, read models and parked bytes keep their ids and amounts; what was personal in them reads as erased from
then on, in this process at once and in others within the time that keys are cached.
"""

from __future__ import annotations

from events import SubjectMark, marked
from infra.runtime.catalog import DeciderWiring
from infra.runtime.engine import Engine


async def erase(engine: Engine, tenant: str, subject: str) -> bool:
    """Destroy the key of `subject` and release the claims that only they held; `False` when there is no such key."""
    for wiring in engine.catalog.workers.values():
        await _forget_claims(engine, wiring, tenant, subject)
    return await engine.codec.vault.erase((tenant, subject))


async def _forget_claims(engine: Engine, wiring: DeciderWiring, tenant: str, subject: str) -> None:
    """A claim is a keyed hash of a contact: it goes with the person."""
    for model in wiring.aggregates.values():
        subjects = marked(model.model, SubjectMark)
        if model.claims and subjects:
            await engine.databases[wiring.schema].execute(
                """DELETE FROM claims c USING aggregates a
                   WHERE a.kind = $1 AND a.tenant = $2 AND a.state ->> $3 = $4
                     AND (c.kind, c.tenant, c.holder) = (a.kind, a.tenant, a.key)""",
                model.name,
                tenant,
                subjects[0],
                subject,
            )
