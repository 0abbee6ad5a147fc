"""`triplane sql`: a tenant's read-only login to the read models, for any PostgreSQL client."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from infra.cli.errors import Code, CommandError
from infra.settings import Settings

commands = typer.Typer()


@commands.command()
def sql(tenant: Annotated[str, typer.Argument(help="The one tenant whose rows the login sees.")]) -> None:
    """Print the URI of a tenant's read-only login. It sees the views in schema `read`, and is made at the first call."""
    typer.echo(asyncio.run(_login(Settings.load(), tenant)))


async def _login(settings: Settings, tenant: str) -> str:
    from infra.postgres.database import TRANSIENT, open_database
    from infra.runtime.operating.logins import ensure_login

    try:
        tenancy = await open_database(settings, "tenancy", size=1)
        try:
            rows = await tenancy.fetch("SELECT standing FROM tenants WHERE tenant = $1", tenant)
        finally:
            await tenancy.close()
        if not rows:
            msg = f"{tenant!r} is no tenant; add it: triplane tenants add {tenant} --why ..."
            raise CommandError(msg, Code.USAGE)
        if rows[0]["standing"] != "active":
            msg = f"{tenant!r} is {rows[0]['standing']}; add it again first"
            raise CommandError(msg, Code.REFUSED)
        return await ensure_login(settings, tenant)
    except TRANSIENT as away:
        msg = f"the database cannot be reached ({type(away).__name__}): is the platform up? (triplane status)"
        raise CommandError(msg) from away
