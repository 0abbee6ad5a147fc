"""`triplane status`: what runs in a home, and where it answers."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit, urlunsplit

import psutil
import typer

from infra.embedded.lock import holder
from infra.settings import Settings, home_path, read_strings

if TYPE_CHECKING:
    from pathlib import Path

PATIENCE_S = 15

commands = typer.Typer()


@commands.command()
def status(*, as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False) -> None:
    """Show what runs, where it answers and how far behind it is."""
    report = processes(home_path())
    if report["state"] == "running":
        report["engine"] = asyncio.run(_engine())
        if any(it["state"] != "running" for it in report["processes"]):
            report["state"] = "degraded"
    typer.echo(json.dumps(report, indent=2) if as_json else _text(report))


def processes(home: Path) -> dict[str, Any]:
    """The state of a home's supervisor and of every process it keeps; addresses are shown without passwords."""
    pid = holder(home)
    rows: list[dict[str, Any]] = []
    if pid is not None:
        try:
            rows = json.loads((home / "processes.json").read_text("utf-8"))
        except (OSError, ValueError):
            rows = []
    for row in rows:
        if not psutil.pid_exists(row["pid"]):
            row["state"] = "down"
    endpoints = {
        name: _without_password(address) for name, address in read_strings(home / "endpoints.json").items()
    }
    state = "stopped" if pid is None else "running" if endpoints else "starting"
    return {
        "home": str(home),
        "state": state,
        "pid": pid,
        "processes": rows,
        "endpoints": endpoints if pid is not None else {},
    }


async def _engine() -> dict[str, Any]:
    """The engine's own report; where it cannot be had, why."""
    from infra.postgres.database import TRANSIENT
    from infra.runtime.asking.freshness import engine_report

    try:
        async with asyncio.timeout(PATIENCE_S):
            return await engine_report(Settings.load())
    except TRANSIENT as away:
        return {"state": "unknown", "because": f"the database cannot be reached: {type(away).__name__}"}


def _without_password(address: str) -> str:
    parts = urlsplit(address)
    if not parts.password:
        return address
    return urlunsplit(parts._replace(netloc=f"{parts.username}@{parts.hostname}:{parts.port}"))


def _text(report: dict[str, Any]) -> str:
    lines = [f"{report['state']}  {report['home']}"]
    lines += [
        f"  {row['name']:<10} {row['state']:<11} pid {row['pid']:<8} {row['restarts']} restarts"
        for row in report["processes"]
    ]
    lines += [f"  {name:<10} {address}" for name, address in report["endpoints"].items()]
    if "engine" in report:
        lines += _engine_text(report["engine"])
    return "\n".join(lines)


def _engine_text(engine: dict[str, Any]) -> list[str]:
    lines = [
        f"engine {engine['state']}"
        + (f": {engine['because']}" if "because" in engine else f", broker {engine['broker']}")
    ]
    for it in engine.get("consumers", []):
        lag = (
            ""
            if it["lag_events"] is None
            else f"{it['lag_events']} events, {it['lag_seconds'] or 0:.1f} s behind"
        )
        parked = f"{it['parked']} parked" if it["parked"] else ""
        lines.append(f"  {it['state']:<5} {it['name']:<34} {lag:<28} {parked} {it['because'] or ''}".rstrip())
        if it["building"]:
            lines.append(f"        {it['building']}")
    lines += [
        f"  outbox of {name}: {it['depth']} waiting, the oldest for {it['age']:.1f} s"
        for name, it in engine.get("outboxes", {}).items()
        if it["depth"]
    ]
    lines += [f"  {count} sagas of {name} are stuck" for name, count in engine.get("sagas_stuck", {}).items()]
    return lines
