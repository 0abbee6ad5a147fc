"""`triplane erase`: destroys the key that seals everything personal about somebody."""

from __future__ import annotations

import asyncio
import getpass
from datetime import UTC, datetime
from typing import Annotated

import typer

from infra.cli.errors import Code, CommandError
from infra.cli.terminal import WHY, confirm, needed
from infra.settings import Settings

commands = typer.Typer()


@commands.command()
def erase(
    tenant: Annotated[str, typer.Argument(help="The tenant.")],
    subject: Annotated[str, typer.Argument(help="The id of the person or customer.")],
    why: Annotated[str, WHY],
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Erase somebody for ever. Ids and amounts stay, what was personal reads as erased."""
    needed(why)
    confirm(f"erase {subject} of {tenant} for ever", yes=yes)
    asyncio.run(_erase(tenant, subject, why))


async def _erase(tenant: str, subject: str, why: str) -> None:
    from events.operations import PersonErased
    from infra.runtime.catalog import discover
    from infra.runtime.engine import open_engine
    from infra.runtime.operating import acts as operations
    from infra.runtime.operating.erasure import erase as destroy

    catalog = discover()
    async with open_engine(Settings.load(), catalog, {*catalog.contexts, "operations"}, size=1) as engine:
        known = await engine.databases["vault"].fetch(
            "SELECT wrapped IS NULL AS gone FROM subject_keys WHERE tenant = $1 AND subject = $2",
            tenant,
            subject,
        )
        if not known:
            msg = f"nothing personal is known of {subject!r} in {tenant!r}"
            raise CommandError(msg, Code.USAGE)
        if known[0]["gone"]:
            typer.echo("nothing to do: erased already")
            return
        who = getpass.getuser()
        act = PersonErased(
            operation_id=operations.new_operation(),
            subject_id=subject,
            who=who,
            why=why,
            at=datetime.now(UTC),
        )
        await operations.record(
            engine.databases["operations"], engine.codec, act, tenant=tenant, who=who, why=why
        )
        await destroy(engine, tenant, subject)
        typer.echo("erased; other processes may read what they have cached for up to a minute")
