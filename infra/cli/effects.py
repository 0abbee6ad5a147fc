"""`triplane effects`: calls to the outside whose outcome nobody could find out; look again, or leave them."""

from __future__ import annotations

import asyncio
import getpass
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from infra.cli.terminal import WHY, harmless, needed
from infra.settings import Settings

if TYPE_CHECKING:
    from infra.runtime.engine import Engine
    from infra.runtime.operating.unknowns import UnknownEffect

commands = typer.Typer()
effects_commands = typer.Typer(help="Calls to the outside whose outcome is unknown.", no_args_is_help=True)
commands.add_typer(effects_commands, name="effects")

Effect = Annotated[UUID, typer.Argument(help="The effect, as `triplane effects list` names it.")]
Why = Annotated[str, WHY]


@effects_commands.command("list")
def list_effects() -> None:
    """List effects of unknown outcome: each holds up its key until it is decided."""
    found = asyncio.run(_list())
    for it in found:
        typer.echo(
            f"{it.id}  {it.tenant:<12} {it.consumer:<28} key {it.key}  {it.attempts} tries\n    {harmless(it.error)}"
        )
    typer.echo(f"{len(found)} unknown", err=True)


@effects_commands.command()
def retry(effect: Effect, why: Why) -> None:
    """Look an effect up outside again, and do it if it has not happened."""
    asyncio.run(_decide(effect, why, again=True))


@effects_commands.command()
def abandon(effect: Effect, why: Why) -> None:
    """Leave an effect as it is: you have seen to it by other means. Its key goes on."""
    asyncio.run(_decide(effect, why, again=False))


@asynccontextmanager
async def _engine() -> AsyncGenerator[Engine]:
    from infra.runtime.catalog import discover
    from infra.runtime.engine import open_engine

    catalog = discover()
    async with open_engine(Settings.load(), catalog, {*catalog.contexts, "operations"}, size=1) as engine:
        yield engine


async def _all(engine: Engine) -> list[UnknownEffect]:
    from infra.runtime.operating.unknowns import unknown

    return [it for context in engine.catalog.contexts for it in await unknown(engine.databases[context])]


async def _list() -> list[UnknownEffect]:
    async with _engine() as engine:
        return await _all(engine)


async def _decide(effect: UUID, why: str, *, again: bool) -> None:
    from infra.runtime.operating import unknowns

    needed(why)
    async with _engine() as engine:
        found = next((it for it in await _all(engine) if it.id == effect), None)
        if found is None:
            typer.echo("nothing to do: no such effect is unknown (any more)")
            return
        change = unknowns.retry if again else unknowns.abandon
        done = await change(engine, found, who=getpass.getuser(), why=why)
        typer.echo("will be looked up again" if again and done else "abandoned" if done else "nothing to do")
