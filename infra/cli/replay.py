"""`triplane replay`: gives one consumer the recorded messages of a range that it never applied."""

from __future__ import annotations

import asyncio
import getpass
import re
import signal
import sys
import threading
import time
from collections.abc import AsyncGenerator, Coroutine, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, TypeVar
from uuid import UUID, uuid4

import typer

from infra.cli.errors import Code, CommandError, unknown
from infra.cli.progress import Progress
from infra.cli.terminal import answered, confirm, harmless, said, table
from infra.settings import Settings, home_path

if TYPE_CHECKING:
    from infra.kafka.admin import Admin
    from infra.postgres.database import Database
    from infra.runtime.catalog import Wiring
    from infra.runtime.engine import Engine
    from infra.runtime.operating.replay_job import Job, Order, Tally, Told
    from infra.runtime.operating.replay_range import Bound, Range
    from infra.runtime.operating.replay_steps import Only

T = TypeVar("T")
LARGEST_OFFSET = 2**63 - 1
TOPIC_NAME = re.compile(r"[a-zA-Z0-9._-]{1,249}")
PATIENCE_S = 6.0
"""How long a broker may take for one answer."""

commands = typer.Typer()


@dataclass(frozen=True)
class Asked:
    """What the command line says of a range."""

    topic: str
    start: Bound
    end: Bound
    partition: int | None
    only: Only
    limit: int | None


@commands.command()
def replay(
    to: Annotated[str, typer.Option(metavar="CONSUMER", help="Who gets the messages: one consumer.")] = "",
    topic: Annotated[str, typer.Option(help="Whose recorded messages.")] = "",
    start: Annotated[
        str,
        typer.Option(
            "--from", metavar="OFFSET|TIME", help="The first: an offset, or an append time with its zone."
        ),
    ] = "",
    end: Annotated[
        str,
        typer.Option(
            "--until", metavar="OFFSET|TIME", help="Before which it ends, likewise. Both: in every partition."
        ),
    ] = "",
    partition: Annotated[int | None, typer.Option(min=0, help="Only this partition.")] = None,
    key: Annotated[str | None, typer.Option(help="Only messages of this key.")] = None,
    kind: Annotated[str | None, typer.Option("--type", help="Only messages of this type.")] = None,
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's.")] = None,
    rate: Annotated[
        int | None, typer.Option(min=1, max=1_000_000, help="At most so many messages a second.")
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(min=1, max=LARGEST_OFFSET, help="At most so many messages, the oldest first."),
    ] = None,
    reason: Annotated[str, typer.Option(help="For the record: why.")] = "",
    resume: Annotated[str, typer.Option(metavar="ID", help="Go on with a replay that was interrupted.")] = "",
    to_topic: Annotated[
        str,
        typer.Option(
            metavar="TOPIC",
            help="Copy to this topic of a new environment, instead of --to. What a crash interrupts and --resume goes on with may "
            "have its last 1,000 records twice, under the same ids: an inbox takes them once.",
        ),
    ] = "",
    to_bootstrap: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="The brokers of --to-topic, if they are others.")
    ] = "",
    *,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Do everything, roll it back, and tell.")
    ] = False,
    again: Annotated[
        bool, typer.Option("--again", help="Apply anew what was applied, as new messages (needs --reason).")
    ] = False,
    with_effects: Annotated[
        bool, typer.Option("--with-effects", help="Let a consumer act outside (needs --reason).")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Give one consumer the recorded messages of a range that it neither applied nor parked. Nobody else's position moves."""
    reason = said("--reason", reason)
    for option, given in (("--key", key), ("--tenant", tenant), ("--to-topic", to_topic)):
        said(option, given or "")
    if resume:
        texts = (to, topic, start, end, key, kind, tenant, to_topic, to_bootstrap)
        if any((*texts, partition is not None, limit, again, dry_run)):
            msg = "--resume goes on with what was asked for then: only --rate can be said with it"
            raise CommandError(msg, Code.USAGE)
        _run(_resume(_replay_id(resume), rate))
        return
    asked = _asked(topic, start, end, partition, key, kind, tenant, limit)
    if to_bootstrap and not to_topic:
        msg = "--to-bootstrap says where --to-topic is"
        raise CommandError(msg, Code.USAGE)
    if to_topic:
        if not TOPIC_NAME.fullmatch(to_topic):
            msg = f"--to-topic {to_topic!r}: a topic's name has 1 to 249 letters, digits, dots, hyphens and underscores"
            raise CommandError(msg, Code.USAGE)
        if to or again or with_effects:
            msg = "--to-topic copies: --to, --again and --with-effects are for a consumer"
            raise CommandError(msg, Code.USAGE)
        _run(_copy(asked, to_topic, to_bootstrap, rate, reason, dry_run=dry_run, yes=yes))
        return
    _check_consumer(to, asked)
    if dry_run:
        _run(_rehearse(to, asked, rate, again=again))
    else:
        _run(_replay(to, asked, rate, reason, again=again, with_effects=with_effects, yes=yes))


# -- what was asked for ---------------------------------------------------------------------------------------------


def _asked(
    topic: str,
    start: str,
    end: str,
    partition: int | None,
    key: str | None,
    kind: str | None,
    tenant: str | None,
    limit: int | None,
) -> Asked:
    from infra.runtime.catalog import discover
    from infra.runtime.operating.replay_steps import Only

    catalog = discover()
    if not topic:
        msg = "say whose messages: --topic TOPIC (triplane catalog lists them)"
        raise CommandError(msg, Code.USAGE)
    if topic not in catalog.topics:
        raise unknown("topic", topic, catalog.topics)
    if kind is not None and kind not in catalog.contracts:
        raise unknown("message type", kind, catalog.contracts, "triplane catalog")
    if not start and not end:
        msg = "say a range: --from and --until take an offset, or a time such as 2026-05-04T12:00:00Z"
        raise CommandError(msg, Code.USAGE)
    first, last = _bound("--from", start), _bound("--until", end)
    if (isinstance(first, int) and isinstance(last, int) and first > last) or (
        isinstance(first, datetime) and isinstance(last, datetime) and first > last
    ):
        msg = f"--from {start} is after --until {end}"
        raise CommandError(msg, Code.USAGE)
    return Asked(topic, first, last, partition, Only(key, kind, tenant), limit)


def _check_consumer(to: str, asked: Asked) -> None:
    from infra.runtime.catalog import discover

    consumers = discover().consumers
    if not to:
        msg = "say to whom: --to CONSUMER (triplane catalog lists them)"
        raise CommandError(msg, Code.USAGE)
    if to not in consumers:
        raise unknown("consumer", to, consumers)
    wiring = consumers[to]
    for what, known in ((asked.topic, wiring.topics), (asked.only.type, sorted(wiring.listens))):
        if what is not None and what not in known:
            msg = f"{to} does not listen to {what}; it listens to {', '.join(known)}"
            raise CommandError(msg, Code.USAGE)


def _bound(name: str, text: str) -> Bound:
    if not text:
        return None
    if text.isascii() and text.isdigit():
        if int(text) <= LARGEST_OFFSET:
            return int(text)
        msg = f"{name} {text}: no offset is that large"
        raise CommandError(msg, Code.USAGE)
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        msg = f"{name} {text!r} is neither an offset nor a time such as 2026-05-04T12:00:00Z"
        raise CommandError(msg, Code.USAGE) from None
    if at.tzinfo is None:
        msg = f"{name} {text}: whose clock? Append Z, or an offset such as +02:00"
        raise CommandError(msg, Code.USAGE)
    return at


def _replay_id(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        msg = f"{text!r} is no replay; its id looks like 0b5d7c1e-5a0f-4f5e-9a55-3f0c4b8f7a10"
        raise CommandError(msg, Code.USAGE) from None


# -- dry run, run, resume -------------------------------------------------------------------------------------------


async def _rehearse(to: str, asked: Asked, rate: int | None, *, again: bool) -> None:
    from infra.runtime.operating.replay_job import Order
    from infra.runtime.operating.replaying import Replaying, batcher_for, steps_for

    async with _engine(to, rehearsal=True) as (engine, wiring):
        wanted, scope = await _range(engine, wiring, asked, again=again)
        order = Order(scope, wanted, asked.only, asked.limit, again)
        batcher = await batcher_for(engine, wiring, wanted.topic, anew=uuid4() if again else None)
        progress = Progress()
        began = time.monotonic()
        rehearsal = Replaying(batcher, steps_for(batcher, order, engine.settings.kafka))
        tally = await rehearsal.rehearse(order, _teller(progress, order))
        progress.line()
        _tell_rehearsal(wiring, order, tally)
        _tell_estimate(tally, time.monotonic() - began, rate)


async def _replay(
    to: str, asked: Asked, rate: int | None, reason: str, *, again: bool, with_effects: bool, yes: bool
) -> None:
    from infra.runtime.operating.replay_job import Order
    from infra.runtime.operating.replaying import check_allowed

    async with _engine(to) as (engine, wiring):
        if (again or with_effects) and not reason and sys.stdin.isatty():
            reason = said("the reason", answered("Why? It is kept with who did it: "))
        check_allowed(wiring, again=again, effects=with_effects, reason=reason)
        wanted, scope = await _range(engine, wiring, asked, again=again)
        order = Order(scope, wanted, asked.only, asked.limit, again, reason, rate)
        await _begin(engine, engine.databases[wiring.schema], order, yes=yes)


async def _begin(engine: Engine, database: Database, order: Order, *, yes: bool) -> None:
    from infra.runtime.operating.replay_job import begun

    if not order.range.records:
        typer.echo("nothing to do: the range is empty")
        return
    _confirm(order, yes=yes)
    job = await begun(database, order)
    typer.echo(f"replay {job.id}; {_how_on(job)}")
    await _go_on(engine, job)


async def _resume(replay_id: UUID, rate: int | None) -> None:
    from infra.runtime.catalog import discover
    from infra.runtime.operating.replay_copy import check_same
    from infra.runtime.operating.replay_job import find, resumed

    schemas = sorted({"operations", *(wiring.schema for wiring in discover().consumers.values())})
    async with _opened(schemas) as engine:
        database, job, done = await find([engine.databases[it] for it in schemas], replay_id)
        if done:
            typer.echo(f"nothing to do: replay {replay_id} is done; {_summary(job.order, job.tally)}")
            return
        if job.order.target is not None:
            await check_same(_admin(job.order.target.bootstrap), job.order.target)
        await _go_on(engine, await resumed(database, replay_id, rate))


async def _go_on(engine: Engine, job: Job) -> None:
    """Run a replay that this process holds, though nobody may read on (`| head`), and say how it ended."""
    from infra.errors import TriplaneError
    from infra.postgres.database import TRANSIENT
    from infra.runtime.operating.replay_copy import copy
    from infra.runtime.operating.replaying import replay as give

    failures: tuple[type[BaseException], ...] = (TriplaneError, *TRANSIENT)
    progress = Progress()
    began = time.monotonic()
    stop = asyncio.Event()
    run = give if job.order.target is None else copy
    try:
        with _interruptible(stop):
            await run(engine, job, who=getpass.getuser(), stop=stop, told=_teller(progress, job.order))
    except failures as failed:
        progress.line()
        said = failed if isinstance(failed, TriplaneError) else f"the database: {type(failed).__name__}"
        raise CommandError(f"{said}; {_how_on(job)}") from failed
    progress.line()
    consumer = job.order.scope[0]
    typer.echo(f"{_summary(job.order, job.tally)} in {time.monotonic() - began:.1f} s")
    _tell_parked_before(job.tally, consumer)
    if not job.at_end:
        raise CommandError(f"interrupted; {_how_on(job)}", Code.INTERRUPTED)
    if job.tally.total.parked:
        msg = f"some of it has been parked: see triplane parked list --consumer {consumer}"
        raise CommandError(msg, Code.PARTIAL)


def _how_on(job: Job) -> str:
    return f"go on with: triplane replay --resume {job.id}"


async def _range(
    engine: Engine, wiring: Wiring, asked: Asked, *, again: bool
) -> tuple[Range, tuple[str, int]]:
    """Find what is asked for, tell it, and refuse what must not be replayed."""
    from infra.runtime.catalog import ProjectionWiring
    from infra.runtime.operating.replay_range import check_kept, reached

    batcher = await engine.batcher(wiring)
    wanted = await reached(batcher, await _resolved(engine, asked))
    if not again:
        remedy = (
            f"triplane rebuild {wiring.projection.name}"
            if isinstance(wiring, ProjectionWiring)
            else "apply everything anew: --again --reason TEXT"
        )
        await check_kept(engine.admin, wanted, remedy)
    _tell_range(wanted, wiring.name, asked.limit)
    return wanted, batcher.scope


async def _resolved(engine: Engine, asked: Asked) -> Range:
    from infra.runtime.operating.replay_range import resolved

    if asked.only.tenant is not None:
        rows = await engine.databases["tenancy"].fetch("SELECT tenant FROM tenants")
        tenants = {row["tenant"] for row in rows}
        if asked.only.tenant not in tenants:
            raise unknown("tenant", asked.only.tenant, tenants, "triplane tenants list")
    return await resolved(engine.admin, asked.topic, asked.start, asked.end, asked.partition)


# -- copy to a topic ------------------------------------------------------------------------------------------------


async def _copy(
    asked: Asked, name: str, bootstrap: str, rate: int | None, reason: str, *, dry_run: bool, yes: bool
) -> None:
    from infra.runtime.operating.replay_copy import rehearsed, target
    from infra.runtime.operating.replay_job import Order, Target

    async with _opened([]) as engine:
        bootstrap = bootstrap or engine.settings.kafka
        there = await target(engine.admin, _admin(bootstrap), engine.catalog, name)
        if there is None:
            msg = f"{name!r} is no topic of {bootstrap}: make it first, with as many partitions as you like"
            raise CommandError(msg, Code.USAGE)
        wanted = await _resolved(engine, asked)
        to = Target(bootstrap, there)
        _tell_range(wanted, to.scope[0], asked.limit)
        order = Order(to.scope, wanted, asked.only, asked.limit, reason=reason, rate=rate, target=to)
        if not dry_run:
            await _begin(engine, engine.databases["operations"], order, yes=yes)
            return
        progress = Progress()
        began = time.monotonic()
        tally = await rehearsed(engine, order, _teller(progress, order))
        progress.line()
        rows = [
            {"partition": number, "type": kind, "to copy": it.applied}
            for (number, kind), it in sorted(tally.lines.items())
        ]
        typer.echo(table(rows) if rows else "no record of the range is meant")
        typer.echo(_summary(order, tally))
        # Writing takes about as long as reading.
        _tell_estimate(tally, 2 * (time.monotonic() - began), rate)


# -- what is told ---------------------------------------------------------------------------------------------------


def _tell_range(wanted: Range, to: str, limit: int | None) -> None:
    from infra.runtime.operating.replay_range import check_size

    check_size(wanted, limit)
    filled = {number: it for number, it in wanted.offsets.items() if it[0] < it[1]}
    typer.echo(f"{wanted.topic.name} to {to}: {wanted.records:,} records in {len(filled)} partitions")
    for number, (first, until) in filled.items():
        typer.echo(f"  partition {number}: offsets {first} to {until - 1}")
    for note in wanted.notes:
        typer.echo(f"  {note}")


def _teller(progress: Progress, order: Order) -> Told:
    def told(tally: Tally, gone: int) -> None:
        what = "replay" if order.target is None else "copy"
        progress(what, f"{gone}/{order.range.records} records: {_summary(order, tally)}")

    return told


def _summary(order: Order, tally: Tally) -> str:
    total = tally.total
    if order.target is not None:
        return f"{total.applied:,} copied, {tally.skipped:,} skipped"
    return f"{total.applied:,} applied, {total.duplicates:,} duplicates, {total.parked:,} parked, {tally.skipped:,} skipped"


def _tell_parked_before(tally: Tally, consumer: str) -> None:
    if tally.total.parked_before:
        typer.echo(
            f"{tally.total.parked_before:,} parked before, and left so; when their cause is mended: "
            f"triplane parked redrive --consumer {consumer} --why TEXT"
        )


def _tell_rehearsal(wiring: Wiring, order: Order, tally: Tally) -> None:
    rows = [
        {
            "partition": number,
            "type": kind,
            "messages": it.messages,
            "to apply": it.applied,
            "applied before": it.duplicates + it.anew,
            "to park": it.parked,
            "parked before": it.parked_before,
        }
        for (number, kind), it in sorted(tally.lines.items())
    ]
    total = tally.total
    typer.echo(table(rows) if rows else "no message of the range concerns this consumer")
    typer.echo(_summary(order, tally))
    _tell_parked_before(tally, wiring.name)
    before = total.duplicates + total.anew
    anew = f"; {total.anew:,} of them would be applied anew" if order.again else ""
    typer.echo(
        f"applied before: {100 * before / max(1, total.messages):.1f} % of {total.messages:,} messages{anew}"
    )
    kinds = sorted({kind for (_, kind), it in tally.lines.items() if it.applied or it.parked})
    for name in _hit(wiring, order.range.topic.name, kinds):
        typer.echo(f"calls {name}")


def _tell_estimate(tally: Tally, took: float, rate: int | None) -> None:
    seconds = max(1.0, took, tally.total.messages / rate if rate else 0.0)
    typer.echo(f"a run takes about {seconds:.0f} s; nothing was changed")


def _hit(wiring: Wiring, topic: str, kinds: list[str]) -> list[str]:
    """Name the functions that messages of these types reach."""
    from infra.runtime.catalog import DeciderWiring, EffectWiring, ProjectionWiring, SagaWiring
    from infra.runtime.catalog.signatures import Signature, where

    found: list[Signature] = []
    for kind in kinds:
        match wiring:
            case DeciderWiring():
                adopter = wiring.adopters.get(kind) if topic.endswith(".inbound") else None
                found += (
                    [adopter] if adopter else [*wiring.keepers.get(kind, ()), *wiring.deciders.get(kind, ())]
                )
            case EffectWiring():
                found += [wiring.finder] if wiring.finder is not None else []
                found.append(wiring.action)
            case SagaWiring():
                found += [wiring.starters[kind]] if kind in wiring.starters else []
                found += [move for (_, answered), move in wiring.moves.items() if answered == kind]
            case ProjectionWiring():
                found += [fold.signature for fold in wiring.folds.get(kind, ())]
    return list(dict.fromkeys(where(it.function) for it in found))


def _confirm(order: Order, *, yes: bool) -> None:
    act, place = ("replay", "") if order.target is None else ("copy", f" at {order.target.bootstrap}")
    what = f"{act} {_meant(order)} to {order.scope[0]}{place}"
    confirm(what, yes=yes, otherwise=", or look first with --dry-run")


def _meant(order: Order) -> str:
    """Say what of the range is meant, as nobody has counted it yet."""
    every = f"{order.range.records:,} records of {order.range.topic.name}"
    only = order.only
    chosen = (("type", only.type), ("tenant", only.tenant), ("key", only.key))
    words = ", ".join(f"{name} {value}" for name, value in chosen if value is not None)
    if order.limit is None and not words:
        return every
    most = "the" if order.limit is None else f"at most {order.limit:,}"
    return f"{most} messages {f'of {words}, ' if words else ''}of the {every}"


# -- around it ------------------------------------------------------------------------------------------------------


def _run(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end; every way to fail is told with its exit code."""
    from infra.logs import logged_to
    from infra.postgres.database import BEHIND, TRANSIENT
    from infra.runtime.operating.replay_range import ReplayRefused, WrongCall

    try:
        with logged_to(home_path() / "logs" / "replay.log"):
            return asyncio.run(work)
    except WrongCall as wrong:
        raise CommandError(str(wrong), Code.USAGE) from wrong
    except ReplayRefused as refused:
        raise CommandError(harmless(str(refused)), Code.REFUSED) from refused
    except BEHIND as other:
        msg = "the database's schema is not that of this code; run: triplane migrate"
        raise CommandError(msg, Code.REFUSED) from other
    except TRANSIENT as away:
        msg = f"the database cannot be reached ({type(away).__name__}): is the platform up? (triplane status)"
        raise CommandError(msg) from away


@asynccontextmanager
async def _engine(to: str, *, rehearsal: bool = False) -> AsyncGenerator[tuple[Engine, Wiring]]:
    from infra.runtime.catalog import discover

    wiring = discover().consumers[to]
    async with _opened([wiring.schema], rehearsal=rehearsal) as engine:
        yield engine, wiring


@asynccontextmanager
async def _opened(schemas: list[str], *, rehearsal: bool = False) -> AsyncGenerator[Engine]:
    from infra.runtime.catalog import discover
    from infra.runtime.engine import open_engine

    async with open_engine(
        Settings.load(), discover(), [*schemas, "operations"], size=3, rehearsal=rehearsal
    ) as engine:
        yield replace(engine, admin=_admin(engine.settings.kafka))


def _admin(bootstrap: str) -> Admin:
    from infra.kafka.admin import Admin

    return Admin(bootstrap, timeout_s=PATIENCE_S)


@contextmanager
def _interruptible(stop: asyncio.Event) -> Generator[None]:
    """Let Ctrl-C (or a polite kill) finish the step in hand."""
    signals = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    loop = asyncio.get_running_loop()
    for it in signals:
        loop.add_signal_handler(it, stop.set)
    try:
        yield
    finally:
        for it in signals:
            loop.remove_signal_handler(it)
