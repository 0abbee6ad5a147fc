"""`triplane parked`: what could not be applied, and why; redrive it when the cause is mended, or give it up."""

from __future__ import annotations

import asyncio
import getpass
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from infra.cli.errors import Code, CommandError, unknown
from infra.cli.terminal import WHY, confirm, harmless, needed
from infra.settings import Settings

if TYPE_CHECKING:
    from infra.runtime.engine import Engine
    from infra.runtime.operating.parked import ParkedMessage

commands = typer.Typer()
parked_commands = typer.Typer(help="What could not be applied, and why.", no_args_is_help=True)
commands.add_typer(parked_commands, name="parked")

Names = Annotated[
    list[str] | None,
    typer.Argument(help="Parked messages by name (payments-12), or - to read names from standard input."),
]
Consumer = Annotated[str | None, typer.Option(help="Only what this consumer has parked.")]
Tenant = Annotated[str | None, typer.Option(help="Only this tenant's.")]
Reason = Annotated[str | None, typer.Option(help="Only with this reason, such as invalid_field.")]
Why = Annotated[str, WHY]
AsJson = Annotated[bool, typer.Option("--json", help="For programs.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


@parked_commands.command("list")
def list_parked(
    consumer: Consumer = None, tenant: Tenant = None, reason: Reason = None, *, as_json: AsJson = False
) -> None:
    """List parked messages in the order in which they would be redriven."""
    found = asyncio.run(_find(consumer, tenant, reason))
    if as_json:
        typer.echo(json.dumps([{**asdict(it), "name": it.name} for it in found], indent=2, default=str))
        return
    for it in found:
        place = f"{it.topic}/{it.partition}/{it.offset}"
        typer.echo(
            f"{it.name:<16} {it.tenant:<12} {it.consumer:<28} {it.type or '?':<32} {place}\n    {it.reason}: {harmless(it.detail)}"
        )
    typer.echo(f"{len(found)} parked", err=True)


@parked_commands.command()
def show(name: str) -> None:
    """Show one parked message with its original record: headers as text, value as text or hex."""
    schema, number = _parsed(name)
    typer.echo(asyncio.run(_show(schema, number)))


@parked_commands.command()
def redrive(
    names: Names = None,
    consumer: Consumer = None,
    tenant: Tenant = None,
    reason: Reason = None,
    why: Why = "",
    rate: Annotated[float, typer.Option(help="At most this many a second.")] = 200.0,
    *,
    yes: Yes = False,
) -> None:
    """Give parked messages to their consumer again, in order: a set frozen now, named or filtered."""
    chosen = asyncio.run(_choose(names, consumer, tenant, reason))
    _confirm(f"redrive {len(chosen)} messages", why, yes=yes, nothing=not chosen)
    done, failed = asyncio.run(_redrive(chosen, why, rate))
    for it, because in failed:
        typer.echo(f"{it.name}: stays parked: {harmless(because)}", err=True)
    typer.echo(f"{done} redriven, {len(failed)} stay parked")
    if failed:
        raise SystemExit(Code.PARTIAL if done else Code.FAILED)


@parked_commands.command()
def discard(
    names: Names = None,
    consumer: Consumer = None,
    tenant: Tenant = None,
    reason: Reason = None,
    why: Why = "",
    *,
    yes: Yes = False,
) -> None:
    """Give parked messages up: their consumer never sees them, not on a rebuild either. The record of it stays."""
    chosen = asyncio.run(_choose(names, consumer, tenant, reason))
    _confirm(f"discard {len(chosen)} messages for ever", why, yes=yes, nothing=not chosen)
    typer.echo(f"{asyncio.run(_discard(chosen, why))} discarded")


def _confirm(what: str, why: str, *, yes: bool, nothing: bool) -> None:
    if nothing:
        typer.echo("nothing to do")
        raise SystemExit(Code.DONE)
    needed(why)
    confirm(what, yes=yes)


def _parsed(name: str) -> tuple[str, int]:
    schema, _, number = name.rpartition("-")
    if not schema or not number.isascii() or not number.isdigit():
        msg = f"{name!r} is no parked message: names look like payments-12 (triplane parked list)"
        raise CommandError(msg, Code.USAGE)
    return schema, int(number)


def _cleaned(names: Sequence[str]) -> list[str]:
    if list(names) == ["-"]:
        names = sys.stdin.read().removeprefix("\ufeff").split()
    return list(dict.fromkeys(name.strip() for name in names if name.strip()))


async def _find(consumer: str | None, tenant: str | None, reason: str | None) -> list[ParkedMessage]:
    from infra.runtime.catalog import discover
    from infra.runtime.engine import open_engine
    from infra.runtime.operating.parked import parked

    catalog = discover()
    if consumer is not None and consumer not in catalog.consumers:
        raise unknown("consumer", consumer, catalog.consumers)
    schemas = sorted(
        {wiring.schema for wiring in catalog.consumers.values() if consumer in {None, wiring.name}}
    )
    async with open_engine(Settings.load(), catalog, schemas, size=1) as engine:
        return [
            it
            for schema in schemas
            for it in await parked(
                engine.databases[schema], consumer=consumer, tenant=tenant, reason=reason, limit=100_000
            )
        ]


async def _choose(
    names: list[str] | None, consumer: str | None, tenant: str | None, reason: str | None
) -> list[ParkedMessage]:
    if not names and consumer is None and tenant is None and reason is None:
        msg = "say which: names, --consumer, --tenant or --reason"
        raise CommandError(msg, Code.USAGE)
    everything = await _find(consumer, tenant, reason)
    if not names:
        return everything
    wanted = _cleaned(names)
    known = {it.name: it for it in everything}
    for name in wanted:
        _parsed(name)
    # What is not parked any more has been repaired by somebody else: nothing to do, and no error.
    return sorted((known[name] for name in wanted if name in known), key=lambda it: (it.schema, it.id))


async def _show(schema: str, number: int) -> str:
    from infra.runtime.catalog import discover
    from infra.runtime.engine import open_engine
    from infra.runtime.operating.parked import original

    catalog = discover()
    if schema not in {wiring.schema for wiring in catalog.consumers.values()}:
        msg = f"{schema!r} is no schema of consumers"
        raise CommandError(msg, Code.USAGE)
    async with open_engine(Settings.load(), catalog, [schema], size=1) as engine:
        record = await original(engine.databases[schema], engine.codec, number)
    if record is None:
        msg = f"{schema}-{number} is not parked (any more)"
        raise CommandError(msg, Code.USAGE)
    lines = [
        f"place      {record.topic}/{record.partition}/{record.offset}",
        f"appended   {record.at.isoformat()}",
    ]
    lines.append(f"key        {_bytes(record.key)}")
    lines += [f"header     {harmless(name)}: {_bytes(value)}" for name, value in record.headers]
    lines.append(f"value      {_bytes(record.value)}")
    return "\n".join(lines)


def _bytes(value: bytes | None) -> str:
    if value is None:
        return "(null)"
    try:
        return harmless(value.decode("utf-8"))
    except UnicodeDecodeError:
        return f"hex {value.hex()}"


async def _redrive(
    chosen: Sequence[ParkedMessage], why: str, rate: float
) -> tuple[int, list[tuple[ParkedMessage, str]]]:
    from infra.runtime.catalog import discover
    from infra.runtime.engine import open_engine
    from infra.runtime.operating.parked import NotFirst, StillFails, redrive

    catalog = discover()
    done: dict[str, list[ParkedMessage]] = {}
    failed: list[tuple[ParkedMessage, str]] = []
    async with open_engine(
        Settings.load(), catalog, {*(it.schema for it in chosen), "operations"}, size=2
    ) as engine:
        batchers = {
            (name, generation): await engine.batcher(catalog.consumers[name], generation)
            for name, generation in {(it.consumer, it.generation) for it in chosen}
        }
        for it in chosen:
            began = time.monotonic()
            try:
                if await redrive(batchers[it.consumer, it.generation], it.id):
                    done.setdefault(it.consumer, []).append(it)
            except (StillFails, NotFirst) as because:
                failed.append((it, str(because)))
            await asyncio.sleep(max(0.0, 1 / rate - (time.monotonic() - began)))
        for consumer, messages in done.items():
            await _note(engine, consumer, messages, why)
    return sum(map(len, done.values())), failed


async def _note(engine: Engine, consumer: str, messages: Sequence[ParkedMessage], why: str) -> None:
    from events.operations import ParkedRedriven
    from infra.runtime.operating import acts as operations

    for start in range(0, len(messages), 1_000):
        act = ParkedRedriven(
            operation_id=operations.new_operation(),
            consumer=consumer,
            messages=[it.id for it in messages[start : start + 1_000]],
            who=getpass.getuser(),
            why=why,
            at=datetime.now(UTC),
        )
        tenants = {it.tenant for it in messages}
        tenant = tenants.pop() if len(tenants) == 1 else operations.INSTALLATION
        await operations.record(
            engine.databases["operations"], engine.codec, act, tenant=tenant, who=getpass.getuser(), why=why
        )


async def _discard(chosen: Sequence[ParkedMessage], why: str) -> int:
    from infra.runtime.catalog import discover
    from infra.runtime.engine import open_engine
    from infra.runtime.operating.parked import discard_audited

    count = 0
    async with open_engine(
        Settings.load(), discover(), {*(it.schema for it in chosen), "operations"}, size=2
    ) as engine:
        for it in chosen:
            count += await discard_audited(engine, it, who=getpass.getuser(), why=why)
    return count
