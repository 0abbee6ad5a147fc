"""`triplane publish`: sends CloudEvents from a file or a pipe, one a line; what is wrong is told by its line."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated

import typer

from infra.cli.errors import Code, CommandError
from infra.cli.terminal import harmless
from infra.settings import Settings

if TYPE_CHECKING:
    from infra.postgres.database import Database
    from infra.runtime.intake.admission import Admission
    from infra.runtime.publishing.outbox import Outgoing
    from infra.runtime.publishing.wakeup import Wakeups

commands = typer.Typer()

BATCH_LINES = 500
LONGEST_LINE = 2_000_000
"""Bytes; a longer line is rejected without being held in memory."""
SHOWN = 20
"""Rejected lines that are told one by one; all are counted."""


@dataclass
class Report:
    """What came of the lines."""

    accepted: int = 0
    rejected: int = 0
    errors: list[dict[str, object]] = field(default_factory=list)

    def reject(self, line: int, code: str, detail: str) -> None:
        """Count a line that was not taken, and keep the first few for show."""
        self.rejected += 1
        if len(self.errors) < SHOWN:
            self.errors.append({"line": line, "code": code, "detail": detail})


@commands.command()
def publish(
    file: Annotated[
        str, typer.Argument(help="A file of CloudEvents in JSON, one a line, or - for standard input.")
    ],
    tenant: Annotated[
        str | None, typer.Option(help="The tenant of all of them; else each line names its own.")
    ] = None,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Check events as `.inbound` does, and send them. They are durable when this ends, broker or no broker."""
    settings = Settings.load()
    with _opened(file) as source:
        report = asyncio.run(_publish(settings, source, tenant))
    if as_json:
        typer.echo(
            json.dumps({"accepted": report.accepted, "rejected": report.rejected, "errors": report.errors})
        )
    else:
        for error in report.errors:
            typer.echo(f"line {error['line']}: {error['code']}: {harmless(str(error['detail']))}", err=True)
        if report.rejected > len(report.errors):
            typer.echo(f"... and {report.rejected - len(report.errors)} more", err=True)
        typer.echo(f"{report.accepted} accepted, {report.rejected} rejected")
    if report.rejected:
        raise SystemExit(Code.PARTIAL if report.accepted else Code.FAILED)


@contextmanager
def _opened(file: str) -> Generator[IO[bytes]]:
    if file == "-":
        yield sys.stdin.buffer
        return
    path = Path(file)
    if not path.is_file():
        msg = f"{file}: is no file; give one with a CloudEvent in JSON on each line, or - for standard input"
        raise CommandError(msg, Code.USAGE)
    with path.open("rb") as source:
        yield source


async def _publish(settings: Settings, source: IO[bytes], tenant: str | None) -> Report:
    from infra.postgres.database import TRANSIENT, open_database
    from infra.runtime.catalog import discover
    from infra.runtime.consuming.tenancy import Tenancy
    from infra.runtime.intake.admission import Admission
    from infra.runtime.messages.codec import Codec
    from infra.runtime.messages.vault import Vault
    from infra.runtime.publishing.wakeup import Wakeups

    report = Report()
    opened = [
        await open_database(settings, schema, size=1, at_once=0) for schema in ("intake", "tenancy", "vault")
    ]
    intake, tenancy, vault = opened
    admission = Admission(
        Codec(discover(), Vault(vault, settings.master_key)),
        Tenancy(tenancy, development=settings.development),
    )
    wakeups = Wakeups()
    lines = _lines(source, report)
    try:
        while batch := await asyncio.to_thread(_take, lines):
            await _send(intake, wakeups, await _admit(admission, batch, tenant, report), report)
        # The debounced wake-up goes out before the connection is gone.
        await asyncio.sleep(0.02)
    except TRANSIENT as away:
        msg = f"the database cannot be reached ({type(away).__name__}); {report.accepted} lines were accepted before"
        raise CommandError(msg, Code.PARTIAL if report.accepted else Code.FAILED) from away
    finally:
        await asyncio.gather(*(database.close() for database in opened))
    return report


def _lines(source: IO[bytes], report: Report) -> Iterator[tuple[int, bytes]]:
    """Walk the lines that hold something, with their numbers from 1; a byte order mark and CRLF are no part of them."""
    number = 0
    while line := source.readline(LONGEST_LINE):
        number += 1
        if len(line) == LONGEST_LINE and not line.endswith(b"\n"):
            while (rest := source.readline(LONGEST_LINE)) and not rest.endswith(b"\n"):
                pass
            report.reject(number, "too_large", f"the line is longer than {LONGEST_LINE} bytes")
            continue
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        if line := line.strip():
            yield number, line


def _take(lines: Iterator[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
    taken: list[tuple[int, bytes]] = []
    for it in lines:
        taken.append(it)
        if len(taken) == BATCH_LINES:
            break
    return taken


async def _admit(
    admission: Admission, batch: list[tuple[int, bytes]], tenant: str | None, report: Report
) -> list[Outgoing]:
    from infra.errors import Unacceptable
    from infra.runtime.messages import strict_json
    from infra.runtime.messages.envelope import open_event

    admitted: list[Outgoing] = []
    now = datetime.now(UTC)
    for number, line in batch:
        try:
            envelope, body = open_event(strict_json.parse(line), now, inbound=True, tenant=tenant)
            if tenant is not None and envelope.tenant != tenant:
                report.reject(
                    number, "tenant_mismatch", f"ce_tenantid: is {envelope.tenant!r}, not --tenant {tenant!r}"
                )
                continue
            admitted.append(await admission.admit(envelope, body))
        except Unacceptable as wrong:
            report.reject(number, wrong.reason, wrong.detail)
    return admitted


async def _send(intake: Database, wakeups: Wakeups, admitted: list[Outgoing], report: Report) -> None:
    from infra.runtime.publishing import outbox

    if admitted:
        async with intake.transaction() as tx:
            await outbox.write(tx, admitted)
        wakeups.poke(intake)
        report.accepted += len(admitted)
