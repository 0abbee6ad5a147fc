"""`triplane query`: asks a read model for one tenant, as HTTP does, and shows the rows."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from infra.cli.errors import Code, CommandError, unknown
from infra.cli.terminal import harmless, table
from infra.settings import Settings

if TYPE_CHECKING:
    from infra.runtime.asking.questions import Page, Question

commands = typer.Typer()


@commands.command()
def query(
    model: Annotated[str, typer.Argument(help="The read model, such as customer_spend.")],
    question: Annotated[str, typer.Argument(help="The query, such as of_customer.", metavar="QUERY")],
    parameters: Annotated[list[str] | None, typer.Argument(help="Its parameters: name=value ...")] = None,
    tenant: Annotated[str, typer.Option(help="The one tenant whose rows are asked for.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many rows.")] = 100,
    *,
    personal: Annotated[bool, typer.Option("--personal", help="Show personal values in clear.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Show the rows that answer a question."""
    if not tenant:
        msg = "--tenant is needed: every row belongs to one"
        raise CommandError(msg, Code.USAGE)
    asked = _question(model, question)
    page = asyncio.run(_ask(asked, _given(parameters or []), tenant, limit, personal=personal))
    items: list[dict[str, Any]] = json.loads(_json(page))
    if as_json:
        typer.echo(json.dumps(items, indent=2))
        return
    typer.echo(table([{name: _plain(value) for name, value in item.items()} for item in items]))
    if page.next:
        typer.echo(f"(more: raise --limit, or ask HTTP for pages; these are the first {limit})", err=True)


def _question(model: str, name: str) -> Question:
    from infra.runtime.asking.questions import Question
    from infra.runtime.catalog import discover

    models = {it.projection.name: it for it in discover().projections.values()}
    wiring = models.get(model)
    if wiring is None:
        raise unknown("read model", model, models)
    found = wiring.queries.get(name)
    if found is None:
        raise unknown(f"query of {model}", name, wiring.queries)
    return Question(wiring, name, *found)


def _given(parameters: list[str]) -> dict[str, str]:
    given: dict[str, str] = {}
    for parameter in parameters:
        name, sign, value = parameter.partition("=")
        if not sign or not name or name in given:
            msg = f"{parameter!r}: write each parameter once, as name=value"
            raise CommandError(msg, Code.USAGE)
        given[name] = value
    return given


async def _ask(question: Question, given: dict[str, str], tenant: str, limit: int, *, personal: bool) -> Page:
    from pydantic import ValidationError

    from infra.errors import Unacceptable
    from infra.postgres.database import TRANSIENT, open_database
    from infra.runtime.asking.questions import Questions
    from infra.runtime.catalog import discover
    from infra.runtime.messages.codec import Codec, explain
    from infra.runtime.messages.vault import Vault

    settings = Settings.load()
    try:
        parameters = question.query.model_validate(given)
    except ValidationError as wrong:
        known = ", ".join(question.query.model_fields)
        msg = f"{explain(wrong)} (the parameters are: {known})"
        raise CommandError(msg, Code.USAGE) from None
    read, vault = [await open_database(settings, schema, size=1, at_once=0) for schema in ("read", "vault")]
    try:
        codec = Codec(discover(), Vault(vault, settings.master_key))
        return await Questions(read, codec, settings.master_key).ask(
            question, parameters, tenant=tenant, limit=limit, cursor=None, personal=personal
        )
    except Unacceptable as wrong:
        raise CommandError(str(wrong), Code.USAGE) from None
    except TRANSIENT as away:
        msg = f"the database cannot be reached ({type(away).__name__}): is the platform up? (triplane status)"
        raise CommandError(msg) from away
    finally:
        await read.close()
        await vault.close()


def _json(page: Page) -> bytes:
    from pydantic_core import to_json

    return to_json(page.items)


def _plain(value: object) -> str | None:
    match value:
        case None:
            return None
        case {"sealed": True}:
            return "(sealed)"
        case {"erased": True}:
            return "(erased)"
        case str():
            return harmless(value)
        case _:
            return json.dumps(value)
