"""`triplane catalog`: every message, consumer, saga and read model that the code declares."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

commands = typer.Typer()


@commands.command()
def catalog(
    *,
    as_json: Annotated[
        bool, typer.Option("--json", help="For programs, with the JSON Schema of every message.")
    ] = False,
    as_map: Annotated[
        bool, typer.Option("--map", help="Who sends what to whom, as a Mermaid diagram.")
    ] = False,
    as_asyncapi: Annotated[bool, typer.Option("--asyncapi", help="AsyncAPI 3 of every topic.")] = False,
) -> None:
    """Show what there is: needs no running platform."""
    from infra.contracts.asyncapi import asyncapi
    from infra.contracts.catalogue import catalogue
    from infra.contracts.event_map import event_map
    from infra.runtime.catalog import discover

    found = discover()
    if as_map:
        typer.echo(event_map(found), nl=False)
    elif as_asyncapi:
        typer.echo(json.dumps(asyncapi(found), indent=2))
    elif as_json:
        typer.echo(json.dumps(catalogue(found), indent=2))
    else:
        typer.echo(_text(catalogue(found)))


def _text(document: dict[str, Any]) -> str:
    lines: list[str] = []
    for message in document["messages"]:
        public = " public" if message["public"] else ""
        lines.append(
            f"{message['type']} v{message['version']} ({message['kind']}{public}), keyed by {message['key']}"
        )
        lines.append(f"    {message['meaning']}")
        lines.append(
            f"    from {', '.join(message['published_by']) or 'nobody'}; to {', '.join(message['listened_to_by']) or 'nobody'}"
        )
    lines.append("")
    for saga in document["sagas"]:
        states = ", ".join(state["name"] for state in saga["states"])
        lines.append(
            f"saga {saga['name']}: begins with {', '.join(it['on'] for it in saga['starts'])}; states {states}"
        )
    for model in document["read_models"]:
        lines.append(f"read model {model['name']}")
        lines += [
            f"    {it['path']} ({', '.join(it['parameters'])}): {it['meaning']}" for it in model["queries"]
        ]
    return "\n".join(lines)
