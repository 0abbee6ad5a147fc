"""`triplane rebuild`: builds a read model anew beside the one that serves, shows what differs, and switches; or goes back."""

from __future__ import annotations

import asyncio
import getpass
import os
import signal
import sys
from collections.abc import AsyncGenerator, Coroutine
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from infra.cli.errors import Code, CommandError, unknown
from infra.cli.progress import Progress
from infra.cli.terminal import WHY, confirm, harmless
from infra.logs import logged_to
from infra.settings import Settings

if TYPE_CHECKING:
    from infra.runtime.catalog import ProjectionWiring
    from infra.runtime.engine import Engine
    from infra.runtime.operating import rebuild_acts
    from infra.runtime.operating.rebuild_acts import Compared
    from infra.runtime.operating.rebuilding import Rebuilt

commands = typer.Typer()


@commands.command()
def rebuild(
    model: Annotated[str, typer.Argument(help="The read model, such as customer_spend.")],
    parallel: Annotated[int, typer.Option(min=1, max=12, help="Build in so many processes.")] = min(
        2, os.cpu_count() or 1
    ),
    why: Annotated[str, WHY] = "",
    *,
    rollback: Annotated[bool, typer.Option("--rollback", help="Serve the generation before again.")] = False,
    cancel: Annotated[bool, typer.Option("--cancel", help="Throw away what is being built.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Build a read model anew from the first event, compare, and switch to it. Interrupted, the same command goes on."""
    if rollback and cancel:
        msg = "say --rollback or --cancel, not both"
        raise CommandError(msg, Code.USAGE)
    wiring = _wiring(model)
    if cancel:
        _run(_cancel(wiring, why or "asked for", yes=yes))
        return
    if not yes and not sys.stdin.isatty():
        msg = f"this would change what readers see of {model}: say --yes to do it without a question"
        raise CommandError(msg, Code.REFUSED)
    if rollback:
        confirm(f"{model}: serve the generation before again", yes=yes)
        _run(_roll_back(wiring, why or "asked for"))
    else:
        _run(_rebuild(wiring, parallel, why or "asked for", yes=yes))


def _run(work: Coroutine[Any, Any, Code]) -> None:
    import uvloop

    code = uvloop.run(work)
    if code:
        raise SystemExit(code)


def _wiring(model: str) -> ProjectionWiring:
    from infra.runtime.catalog import discover

    models = {it.projection.name: it for it in discover().projections.values()}
    if model not in models:
        raise unknown("read model", model, models)
    return models[model]


@asynccontextmanager
async def _opened() -> AsyncGenerator[tuple[Engine, asyncio.Event]]:
    """Open what it takes; the event is set when the operator wants to stop."""
    from infra.runtime import collector
    from infra.runtime.catalog import discover
    from infra.runtime.engine import open_engine

    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    settings = Settings.load()
    with logged_to(settings.home / "logs" / "rebuild.log"):
        async with (
            open_engine(settings, discover(), ["projections", "operations"], size=5) as engine,
            collector.kept_out(),
        ):
            yield engine, stop


async def _rebuild(wiring: ProjectionWiring, parallel: int, why: str, *, yes: bool) -> Code:
    from infra.postgres.database import TRANSIENT
    from infra.runtime.operating.rebuild_acts import Asker
    from infra.runtime.operating.rebuilding import Rebuild

    model = wiring.projection.name
    progress = Progress()

    async with _opened() as (engine, stop):

        def tell(it: rebuild_acts.Progress) -> None:
            left = f", {it.lag / it.rate:.0f} s left" if it.rate > 1 and it.lag else ""
            share = 100 * it.done // max(1, it.total)
            progress(
                it.step, f"{it.done}/{it.total} events ({share} %), {it.rate:,.0f}/s, {it.lag} behind{left}"
            )

        async def agree(compared: Compared) -> bool:
            progress.line()
            for line in _lines(compared):
                progress.line(line)
            return yes or await _asked(f"switch readers of {model} to it? [y/N] ", stop)

        asker = Asker(getpass.getuser(), why, tell, agree)
        try:
            done = await Rebuild(engine, wiring, asker, processes=parallel).run(stop)
        except TRANSIENT as away:
            msg = f"the database is away ({away}); what is built is kept, go on: triplane rebuild {model}"
            raise CommandError(msg) from away
    progress.line()
    if not done.switched:
        kept = f"generation {done.generation} is kept as far as it is; go on: triplane rebuild {model}"
        typer.echo(f"{kept}; give it up: triplane rebuild {model} --cancel", err=True)
        return Code.INTERRUPTED if stop.is_set() else Code.REFUSED
    back = "back" if done.returns else "back, as long as workers of the release before run"
    typer.echo(
        f"{model}: generation {done.generation} serves; {folded(done)}; "
        f"{back}: triplane rebuild {model} --rollback"
    )
    if not done.taken_over:
        typer.echo(f"nobody works for {wiring.name}: start a worker (triplane work projections)", err=True)
    return Code.DONE


def folded(done: Rebuilt) -> str:
    """Say what a rebuild has folded, and what it found folded by an earlier run of the same."""
    if done.before and not done.events:
        return f"all its {done.before} events were folded before"
    rate = done.events / max(0.001, done.seconds)
    now = f"{done.events} events in {done.seconds:.1f} s ({rate:,.0f}/s)"
    return f"{done.before} events were folded before, {now}" if done.before else now


async def _asked(question: str, stop: asyncio.Event) -> bool:
    """Ask on the terminal, and take an interruption for a no."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    sys.stdout.write(question)
    sys.stdout.flush()
    loop.add_reader(sys.stdin.fileno(), ready.set)
    waiting = [asyncio.create_task(it.wait()) for it in (ready, stop)]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        loop.remove_reader(sys.stdin.fileno())
        for it in waiting:
            it.cancel()
    return ready.is_set() and sys.stdin.readline().strip().lower() in {"y", "yes"}


def _lines(compared: Compared) -> list[str]:
    lines: list[str] = []
    if compared.superfluous:
        lines.append(
            f"nothing is behind its code: generation {compared.serving} is built from this code already"
        )
    if compared.gives_up is not None:
        lines.append(
            f"generation {compared.gives_up} is kept up to date no more after a switch: the way back is to {compared.serving}"
        )
    for it in compared.tables:
        counts = (
            f"{it.new} new, {it.gone} gone, {it.changed} changed"
            if it.comparable
            else "other keys: not compared"
        )
        lines.append(f"{it.view}: {it.rows_before} rows before, {it.rows} after; {counts}")
        for said, columns in (
            ("added", it.columns_added),
            ("lost", it.columns_lost),
            ("of another type, not compared", it.columns_retyped),
            ("personal, compared only for whether there is a value", it.personal),
        ):
            if columns:
                lines.append(f"  columns {said}: {', '.join(columns)}")
        if it.moves_to:
            lines.append(f"  SQL finds it as read.{it.moves_to}; the view before keeps the rows before")
        for row in it.sample:
            key = ", ".join(f"{name} {value}" for name, value in row.key.items())
            columns = ", ".join(f"{name} {was!r} -> {now!r}" for name, (was, now) in row.columns.items())
            lines.append(
                harmless(f"  {row.change}: {key}" + (f": {columns}" if row.change == "changed" else ""))
            )
    return lines


async def _roll_back(wiring: ProjectionWiring, why: str) -> Code:
    from infra.runtime.operating.rolling_back import roll_back

    async with _opened() as (engine, stop):
        done = await roll_back(engine, wiring, _asker(why), stop)
    if done is None:
        typer.echo("nothing to do: the generation before serves already")
        return Code.DONE
    typer.echo(
        f"{wiring.projection.name}: generation {done.generation} serves again, {done.before} stands by; "
        f"forward, when its code is mended: triplane rebuild {wiring.projection.name}"
    )
    if not done.attended:
        typer.echo(f"nobody works for {wiring.name}: start a worker (triplane work projections)", err=True)
    elif not done.fits:
        typer.echo(
            "this code does not fold it: keep the release before running, or go forward before you end it",
            err=True,
        )
    return Code.DONE


async def _cancel(wiring: ProjectionWiring, why: str, *, yes: bool) -> Code:
    from infra.runtime.folding.generations import generations
    from infra.runtime.operating.rebuild_acts import half_built
    from infra.runtime.operating.rebuilding import cancel

    async with _opened() as (engine, _):
        # Nobody is asked about nothing.
        if half_built(wiring, await generations(engine.databases[wiring.schema], wiring)) is not None:
            confirm(f"throw away what is being built of {wiring.projection.name}", yes=yes)
        number = await cancel(engine, wiring, _asker(why))
    typer.echo(
        "nothing to do: nothing is being built" if number is None else f"generation {number} is thrown away"
    )
    return Code.DONE


def _asker(why: str) -> rebuild_acts.Asker:
    from infra.runtime.operating.rebuild_acts import Asker

    async def agree(_: Compared) -> bool:
        return True

    return Asker(getpass.getuser(), why, lambda _: None, agree)
