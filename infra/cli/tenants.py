"""`triplane tenants`: who may send and be served. Each change is an act with a reason, kept and published."""

from __future__ import annotations

import asyncio
import getpass
import json
from datetime import UTC, datetime
from typing import Annotated, Literal

import typer

from infra.cli.errors import Code, CommandError
from infra.cli.terminal import WHY, needed, table
from infra.settings import Settings

commands = typer.Typer()
tenants_commands = typer.Typer(help="Who may send and be served.", no_args_is_help=True)
commands.add_typer(tenants_commands, name="tenants")

Tenant = Annotated[str, typer.Argument(help="1 to 63 of a-z, 0-9 and '-'.")]
Why = Annotated[str, WHY]
AsJson = Annotated[bool, typer.Option("--json", help="For programs.")]
Standing = Literal["active", "suspended"]


@tenants_commands.command("list")
def list_tenants(*, as_json: AsJson = False) -> None:
    """List every tenant."""
    rows = asyncio.run(_list(Settings.load()))
    typer.echo(json.dumps(rows, indent=2) if as_json else table(rows))


@tenants_commands.command()
def add(tenant: Tenant, why: Why = "") -> None:
    """Let a tenant send and be served; also one that was suspended."""
    _change(tenant, "active", why)


@tenants_commands.command()
def suspend(tenant: Tenant, why: Why = "") -> None:
    """Park what a tenant sends to Kafka, and refuse it over HTTP and SQL, until it is added again. Nothing is deleted."""
    _change(tenant, "suspended", why)


def _change(tenant: str, standing: Standing, why: str) -> None:
    from infra.postgres.database import TRANSIENT
    from infra.runtime.messages.envelope import TENANT

    if not TENANT.match(tenant):
        msg = f"{tenant!r}: a tenant id is 1 to 63 of a-z, 0-9 and '-'"
        raise CommandError(msg, Code.USAGE)
    needed(why)
    try:
        typer.echo(asyncio.run(_set(Settings.load(), tenant, standing, why)))
    except TRANSIENT as away:
        msg = f"the database cannot be reached ({type(away).__name__}): is the platform up? (triplane status)"
        raise CommandError(msg) from away


async def _list(settings: Settings) -> list[dict[str, str]]:
    from infra.postgres.database import open_database

    tenancy = await open_database(settings, "tenancy", size=1)
    try:
        rows = await tenancy.fetch("SELECT tenant, standing, origin, added_at FROM tenants ORDER BY tenant")
    finally:
        await tenancy.close()
    return [
        {
            **{name: row[name] for name in ("tenant", "standing", "origin")},
            "added_at": row["added_at"].isoformat(),
        }
        for row in rows
    ]


async def _set(settings: Settings, tenant: str, standing: Standing, why: str) -> str:
    from events.operations import TenantAdded, TenantSuspended
    from infra.postgres.database import open_database
    from infra.runtime.catalog import discover
    from infra.runtime.messages.codec import Codec
    from infra.runtime.messages.vault import Vault
    from infra.runtime.operating import acts as operations
    from infra.runtime.operating.logins import ensure_login, role_of, withdraw_login

    opened = [await open_database(settings, schema, size=1) for schema in ("tenancy", "operations", "vault")]
    tenancy, journal, vault = opened
    try:
        known = await tenancy.fetch("SELECT standing FROM tenants WHERE tenant = $1", tenant)
        if known and known[0]["standing"] == standing:
            return f"{tenant} is {standing} already; nothing to do"
        if not known and standing == "suspended":
            msg = f"{tenant!r} is no tenant; see triplane tenants list"
            raise CommandError(msg, Code.USAGE)
        who = getpass.getuser()
        kind = TenantAdded if standing == "active" else TenantSuspended
        act = kind(
            operation_id=operations.new_operation(), tenant=tenant, who=who, why=why, at=datetime.now(UTC)
        )
        # The act first: what is done without a record must not be, what is recorded and not done is done again.
        codec = Codec(discover(), Vault(vault, settings.master_key))
        await operations.record(journal, codec, act, tenant=operations.INSTALLATION, who=who, why=why)
        await tenancy.execute(
            """INSERT INTO tenants (tenant, standing, origin) VALUES ($1, $2, 'operator')
               ON CONFLICT (tenant) DO UPDATE SET standing = excluded.standing""",
            tenant,
            standing,
        )
    finally:
        await asyncio.gather(*(database.close() for database in opened))
    if standing == "suspended":
        await withdraw_login(settings, tenant)
        return f"{tenant} is suspended"
    if known:
        # Its SQL login, if it had one, works again.
        await ensure_login(settings, tenant)
        return f"{tenant} is active again, and so is its SQL login {role_of(tenant)}"
    return f"{tenant} is added"
