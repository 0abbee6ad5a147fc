"""`triplane status`: what runs in a home, and where it answers."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit, urlunsplit

import psutil
import typer

from infra.embedded.lock import holder
from infra.settings import home_path, read_strings

if TYPE_CHECKING:
    from pathlib import Path

commands = typer.Typer()


@commands.command()
def status(*, as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False) -> None:
    """Show the processes and addresses of this home."""
    report = processes(home_path())
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
    return "\n".join(lines)
