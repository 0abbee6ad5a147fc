"""`/healthz`, `/readyz` and `/metrics`: the truth, measured, for whoever keeps the platform running."""

from __future__ import annotations

import time
from functools import cache
from ipaddress import ip_address
from typing import Any

from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import Response

from infra.http.authentication import Role
from infra.http.metrics import CONTENT_TYPE
from infra.http.problems import Problem
from infra.http.services import Services, caller_of, services_of
from infra.postgres.database import TRANSIENT
from infra.runtime.asking.freshness import Part, unattended
from infra.runtime.catalog import discover

STARTED = time.monotonic()


async def healthz(_request: Request) -> Response:
    """Say that this process is alive and its loop turns."""
    return Response(
        to_json({"status": "alive", "uptime_seconds": round(time.monotonic() - STARTED, 1)}),
        200,
        media_type="application/json",
    )


async def readyz(request: Request) -> Response:
    """Say whether everything works that must: 200, or 503 with what does not.

    A broker that is away is shown and does not count, nor do partitions that are being shared out: what is sent in is still
    taken in, and answered 202.
    """
    services = services_of(request)
    checks = await _checks(services)
    ready = all(check["ok"] or not check["required"] for check in checks.values())
    document = {
        "status": "ready" if ready else "not ready",
        "instance": services.settings.instance,
        "checks": checks,
    }
    return Response(
        to_json(document), 200 if ready else 503, {"Cache-Control": "no-store"}, "application/json"
    )


async def _checks(services: Services) -> dict[str, dict[str, Any]]:
    try:
        behind = await _behind(services)
    except TRANSIENT as away:
        return {"database": _check(f"cannot be reached: {type(away).__name__}")}
    except Exception as wrong:  # noqa: BLE001 - whatever the database says, this answers
        return {"database": _check(None), "migrations": _check(f"{wrong}; run: triplane migrate")}
    checks = {
        "database": _check(None),
        "migrations": _check(
            f"not up to date: {', '.join(behind)}; run: triplane migrate" if behind else None
        ),
    }
    if behind:
        return checks
    try:
        measured = await services.gauge.measure()
    except TRANSIENT as away:
        return checks | {"database": _check(f"cannot be reached: {type(away).__name__}")}
    relays = [part for name, part in measured.parts.items() if name.startswith("relay.")]
    workers = [part for name, part in measured.parts.items() if not name.startswith("relay.")]
    return checks | {
        "workers": _check(_dead(workers)),
        "relays": _check(_dead(relays)),
        "partitions": _check(_unattended(workers), required=False),
        "broker": _check(None if measured.broker else "does not answer", required=False),
    }


def _check(wrong: str | None, *, required: bool = True) -> dict[str, Any]:
    return {"ok": wrong is None, "required": required, "detail": wrong}


def _dead(parts: list[Part]) -> str | None:
    """Name those for whom nobody alive works; how far behind they are is for the metrics."""
    dead = [part for part in parts if not any(process.alive for process in part.processes)]
    return None if not dead else "; ".join(f"{part.name}: {', '.join(part.red)}" for part in dead[:10])


def _unattended(parts: list[Part]) -> str | None:
    """Name those whose partitions wait to be shared out; a read model that is behind its code waits for something else."""
    waiting = [(part.name, unattended(part)) for part in parts if part.behind is None]
    return "; ".join(f"{name}: {text}" for name, text in waiting if text is not None) or None


async def _behind(services: Services) -> list[str]:
    expected = _expected()
    asked = (f"SELECT '{schema}' AS schema, version_num FROM {schema}.alembic_version" for schema in expected)
    rows = await services.monitor.fetch(" UNION ALL ".join(asked))
    current: dict[str, set[str]] = {}
    for row in rows:
        current.setdefault(row["schema"], set()).add(row["version_num"])
    return [schema for schema, wanted in expected.items() if not wanted <= current.get(schema, set())]


@cache
def _expected() -> dict[str, set[str]]:
    # Alembic is slow to import, and needed once.
    from infra.migrations.schemas import heads  # noqa: PLC0415

    return heads(discover())


async def metrics(request: Request) -> Response:
    """Give figures to this machine, and elsewhere to operators."""
    if not _from_here(request):
        caller_of(request, Role.OPERATOR)
    services = services_of(request)
    try:
        measured = await services.gauge.measure()
    except TRANSIENT as away:
        raise Problem(
            503, "database_away", f"the database cannot be reached: {type(away).__name__}"
        ) from None
    return Response(services.metrics.text(measured), media_type=CONTENT_TYPE)


def _from_here(request: Request) -> bool:
    try:
        return request.client is not None and ip_address(request.client.host).is_loopback
    except ValueError:
        return False
