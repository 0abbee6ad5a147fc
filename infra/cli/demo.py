"""`triplane demo`: the tour of the main job. An outside publisher sends a seeded stream, the read models answer."""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from infra.cli.errors import Code, CommandError
from infra.settings import Settings, home_path

if TYPE_CHECKING:
    import asyncpg

    Connection = asyncpg.Connection[asyncpg.Record]

commands = typer.Typer()
UPSTREAM = Path(__file__).parent.parent / "demo" / "upstream.py"
SETTLED_AFTER = 3
"""Looks in a row at which nothing is under way."""
GIVE_UP_S = 900.0
CLOSE_S = 5.0


@commands.command()
def demo(
    events: Annotated[int, typer.Option(help="How many messages to send.", min=200, max=5_000_000)] = 2_000,
    seed: Annotated[
        int | None, typer.Option(help="The same seed sends the same messages, byte by byte.")
    ] = None,
) -> None:
    """Send a realistic stream from outside, and see what comes of it."""
    from infra.embedded.lock import HomeTaken, locked

    try:
        with locked(home_path() / "demo"):
            lost = asyncio.run(_demo(events, seed if seed is not None else int(time.time())))
    except HomeTaken as taken:
        msg = f"{taken}: a demo runs already, and each would count what the other's messages came to; wait for it"
        raise CommandError(msg, Code.REFUSED) from taken
    if lost:
        raise SystemExit(Code.FAILED)


async def _demo(events: int, seed: int) -> bool:
    async with _platform():
        settings = Settings.load()
        async with _connected(settings) as connection:
            before = await _parked(connection)
        began = time.monotonic()
        expected = await _publish(settings, events, seed)
        sent_s = time.monotonic() - began
        await _settle(settings, began)
        took = time.monotonic() - began
        async with _connected(settings) as connection:
            return await _tell(connection, expected, before, sent_s, took, seed)


@asynccontextmanager
async def _connected(settings: Settings) -> AsyncGenerator[Connection]:
    """Give a connection for one look, as the database may be killed between two."""
    import asyncpg

    connection = await asyncpg.connect(settings.postgres)
    try:
        yield connection
    finally:
        await connection.close(timeout=CLOSE_S)


@asynccontextmanager
async def _platform() -> AsyncGenerator[None]:
    """Use the platform that runs in this home, or run one for the demo."""
    from infra.embedded.lock import holder

    home = home_path()
    if holder(home) is not None or not _embedded():
        for _ in range(600):
            if (home / "endpoints.json").exists() or not _embedded():
                break
            await asyncio.sleep(0.2)
        yield
        return
    typer.echo("no platform runs in this home: starting one for the demo")
    (home / "endpoints.json").unlink(missing_ok=True)  # of a run that was killed
    up = await asyncio.create_subprocess_exec(sys.executable, "-m", "infra.cli", "up")
    try:
        while not (home / "endpoints.json").exists():
            if up.returncode is not None:
                msg = "the platform did not start; see above"
                raise CommandError(msg)
            await asyncio.sleep(0.2)
        yield
    finally:
        if up.returncode is None:
            up.terminate()
        await up.wait()


def _embedded() -> bool:
    import os

    return not (os.environ.get("TRIPLANE_KAFKA") and os.environ.get("TRIPLANE_POSTGRES"))


async def _publish(settings: Settings, events: int, seed: int) -> dict[str, Any]:
    """Run the publisher as a process of its own, which sees nothing of the platform but the broker's address."""
    with tempfile.TemporaryDirectory() as folder:
        expect = Path(folder) / "expected.json"
        publisher = await asyncio.create_subprocess_exec(
            sys.executable,
            "-I",
            str(UPSTREAM),
            *(
                "--kafka",
                settings.kafka,
                "--events",
                str(events),
                "--seed",
                str(seed),
                "--expect",
                str(expect),
            ),
            stdout=asyncio.subprocess.PIPE,
        )
        assert publisher.stdout is not None
        said: dict[str, Any] = {}
        async for line in publisher.stdout:
            said = json.loads(line)
            _progress(f"sending   {said['sent']:>8} of {said['of']}")
        if await publisher.wait():
            msg = f"the publisher could not send everything: {said.get('failures')}"
            raise CommandError(msg)
        _progress(f"sent      {said['sent']:>8} messages, seed {seed}", last=True)
        expected: dict[str, Any] = json.loads(expect.read_text("utf-8"))
        return expected


async def _settle(settings: Settings, began: float) -> None:
    """Wait until nothing is under way any more, whatever is killed meanwhile."""
    from infra.demo.answers import pending
    from infra.kafka.admin import Admin
    from infra.runtime.catalog import discover
    from infra.runtime.engine import AWAY

    admin, catalog, quiet, left = Admin(settings.kafka), discover(), 0, ""
    while quiet < SETTLED_AFTER:
        try:
            async with _connected(settings) as connection:
                now = await pending(connection, admin, catalog)
        except AWAY as away:
            quiet, left = 0, f"waiting   {away}"
        else:
            quiet = quiet + 1 if now.total == 0 else 0
            left = f"working   {now.unread:>8} to fold  {now.unpublished:>6} to publish  {now.effects:>5} calls  {now.flows:>5} flows waiting"
        _progress(left)
        if time.monotonic() - began > GIVE_UP_S:
            _progress("", last=True)
            msg = f"still under way after {GIVE_UP_S:.0f} s: {' '.join(left.split())}; see triplane status and triplane parked list"
            raise CommandError(msg)
        await asyncio.sleep(0.5)
    _progress("settled   nothing is under way any more", last=True)


async def _parked(connection: Connection) -> Counter[str]:
    from infra.runtime.catalog import discover
    from infra.runtime.catalog.schemas import chains

    found: Counter[str] = Counter()
    for schema, labels in chains(discover()).items():
        if "engine" in labels:
            for row in await connection.fetch(
                f"SELECT reason, count(*) AS n FROM {schema}.parked GROUP BY reason"
            ):
                found[row["reason"]] += row["n"]
    return found


async def _tell(
    connection: Connection,
    expected: dict[str, Any],
    before: Counter[str],
    sent_s: float,
    took: float,
    seed: int,
) -> bool:
    from infra.demo.answers import report

    found = await report(connection, expected)
    parked = await _parked(connection) - before
    wrong = {
        reason: (parked[reason], expected["poisoned"].get(reason, 0))
        for reason in {*parked, *expected["poisoned"]}
        if parked[reason] != expected["poisoned"].get(reason, 0)
    }
    typer.echo("")
    await _answers(connection)
    typer.echo("\nWhat is parked, and why (triplane parked list shows each)")
    for reason, count in sorted(parked.items()):
        typer.echo(f"  {reason:<24} {count:>6}")
    typer.echo(
        f"\nOutcome of {expected['sent']} messages (seed {seed}, {expected['duplicates']} of them sent twice)"
    )
    for name, figure in found.figures.items():
        typer.echo(f"  {name:<24} {figure:>6}")
    typer.echo(f"  {'lost':<24} {len(found.lost):>6}")
    typer.echo(f"  {'duplicated':<24} {len(found.duplicated):>6}")
    typer.echo(f"  {'parked as expected':<24} {'yes' if not wrong else 'no':>6}")
    typer.echo(
        f"  sent in {sent_s:.1f} s, settled after {took:.1f} s: {expected['sent'] / took:.0f} messages/s end to end"
    )
    for line in [*found.lost[:10], *found.duplicated[:10]]:
        typer.echo(f"  ! {line}", err=True)
    for reason, (was, should) in wrong.items():
        typer.echo(f"  ! parked as {reason}: {was} instead of {should}", err=True)
    return bool(found.lost or found.duplicated or wrong)


async def _answers(connection: Connection) -> None:
    """Ask the read models what people ask."""
    questions = {
        "Who has access (tenant, product, people)": """
            SELECT tenant, left(product_id::text, 8) || '...', count(*) FROM read.customer_access
            WHERE status = 'granted' GROUP BY 1, 2 ORDER BY 3 DESC, 1, 2 LIMIT 8""",
        "What customers spent (tenant, currency, customers, minor units)": """
            SELECT tenant, currency, count(*), sum(spent_minor)::bigint FROM read.customer_spend GROUP BY 1, 2 ORDER BY 1, 2""",
        "Which conversations are linked (tenant, how, conversations, customers)": """
            SELECT tenant, method, count(*), count(DISTINCT customer_id) FROM read.conversation_links
            GROUP BY 1, 2 ORDER BY 1, 2""",
        "Which sagas ended how (saga, outcome, state, instances)": """
            SELECT saga, outcome, state, count(*) FROM read.saga_instances GROUP BY 1, 2, 3 ORDER BY 1, 4 DESC""",
    }
    for question, query in questions.items():
        typer.echo(question)
        for row in await connection.fetch(query):
            typer.echo(
                "  "
                + "  ".join(f"{value!s:<22}" if isinstance(value, str) else f"{value:>10}" for value in row)
            )


def _progress(line: str, *, last: bool = False) -> None:
    """Show how far it is: one line that is written over on a terminal, now and then a line elsewhere."""
    if sys.stdout.isatty():
        typer.echo(f"\r\033[K{line}", nl=last)
    elif last:
        typer.echo(line)
