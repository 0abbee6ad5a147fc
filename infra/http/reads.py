"""`GET /read/<model>/<query>`: one typed route a published query, answered behind a token or a place where asked to.

What comes back says how fresh it is. A read model that does not show the message of a token answers with a problem whose
`state` says which: `refused` (why) and `parked` and `discarded` with 409, not yet (`accepted`, `queued`, `applied`) with
425 and Retry-After.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from difflib import get_close_matches
from typing import Annotated, Any, Final, Literal

import fastapi
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from events import PersonalMark, marked
from infra.errors import Unacceptable, WiringError
from infra.http.authentication import Caller, Role
from infra.http.commands import token_of
from infra.http.problems import Problem, refused, refused_parameters
from infra.http.services import Services, caller_of, services_of
from infra.postgres.database import TRANSIENT
from infra.runtime.asking.freshness import Lag
from infra.runtime.asking.questions import DEFAULT_LIMIT, MAX_LIMIT, Question
from infra.runtime.catalog import Catalog, ProjectionWiring
from infra.runtime.folding.generations import Behind
from infra.runtime.intake.following import MAX_WAIT_S, At, Reached
from projections import Query, Row

Endpoint = Callable[..., Awaitable[Response]]

NOT_YET: Final = 425
_SAID: Final = {
    "refused": "the message was refused; see 'reason'",
    "parked": "what the message led to is parked for an operator; see 'reason'",
    "discarded": "an operator gave the message up",
    "unknown": "nothing is known of the message yet; ask again, with wait=SECONDS",
    "accepted": "the message is durable here and not yet on its topic; ask again, with wait=SECONDS",
    "queued": "not yet read; ask again, with wait=SECONDS",
    "applied": "decided, and not yet in this read model; ask again, with wait=SECONDS",
}


class Paging(BaseModel):
    """What every query takes beside its own parameters."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    limit: int = Field(DEFAULT_LIMIT, ge=1, le=MAX_LIMIT)
    """At most so many rows."""
    cursor: str | None = Field(None, max_length=4_000)
    """The `next` of the last answer to the same question."""
    token: str | None = Field(None, max_length=2_000)
    """Answer only once the read model shows what came of this message (a command's id or any message's token)."""
    at: str | None = Field(None, max_length=400)
    """Answer only once the read model has read this place: `topic/partition/offset`."""
    wait: float = Field(0, ge=0, le=MAX_WAIT_S)
    """Wait so many seconds for it."""


class Sealed(BaseModel):
    """A personal value that the token's roles do not show (it needs `pii`)."""

    sealed: Literal[True]


class AsOf(BaseModel):
    """How fresh the rows of an answer are. Measured some seconds ago at most; empty while the broker does not answer."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    lag_events: int | None
    """Events that are not applied to them yet. Rows of an earlier shape, read by a server of earlier code, may stand still."""
    lag_seconds: float | None
    """How long the oldest of them has been waiting."""
    measured_at: datetime | None


def questions_of(wiring: ProjectionWiring) -> dict[str, Question]:
    """Give the published queries of a read model by name."""
    return {name: Question(wiring, name, query, row) for name, (query, row) in wiring.queries.items()}


def parameters_of(question: Question) -> type[BaseModel]:
    """Give the model of a query's parameters with those of every query."""
    taken = Paging.model_fields.keys() & question.query.model_fields.keys()
    if taken:
        raise WiringError(
            f"{question.model.name}.{question.name}: the parameter {min(taken)!r} is taken; choose another name"
        )
    return create_model(
        f"{question.model.projection.name}_{question.name}", __base__=(Paging, question.query)
    )


def page_of(question: Question) -> type[BaseModel]:
    """Give the model of an answer, for the documents."""
    return create_model(
        f"{question.model.projection.name}_{question.name}_page",
        items=(_list_of(_shown(question.row)), ...),
        next=(str | None, Field(description="The cursor of the next page; empty on the last.")),
        as_of=(AsOf, ...),
    )


def _list_of(item: Any) -> Any:
    return list[item]


def _shown(row: type[Row]) -> Any:
    """Give a row class with its personal values as a reader may get them."""
    fields: dict[str, Any] = {}
    for name in marked(row, PersonalMark):
        open_value: Any = row.model_fields[name].annotation
        fields[name] = (open_value | Sealed, row.model_fields[name])
    return create_model(row.__name__, __base__=row, __doc__=row.__doc__, **fields) if fields else row


def endpoint(question: Question, parameters: type[BaseModel]) -> Endpoint:
    """Make the route of one query, with the model of its parameters."""

    async def get_answer(request: Request, asked: Any) -> Response:
        return await _answer(services_of(request), caller_of(request, Role.ANALYST), question, asked)

    get_answer.__name__ = f"read_{question.model.projection.name}_{question.name}"
    get_answer.__doc__ = question.query.__doc__
    get_answer.__annotations__ = {
        "request": Request,
        "asked": Annotated[parameters, fastapi.Query()],
        "return": Response,
    }
    return get_answer


def answering(answer: Endpoint, parameters: type[BaseModel]) -> ASGIApp:
    """Read the parameters and let an `endpoint` answer: FastAPI, which documents it, takes longer for that than the database."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope)
        given = request.query_params.multi_items()
        names = [name for name, _ in given]
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            error = {"loc": (min(twice),), "type": "twice", "msg": "stands twice; send it once"}
            raise _misasked(request, [error])
        try:
            asked = parameters.model_validate(dict(given))
        except ValidationError as wrong:
            raise _misasked(request, wrong.errors()) from None
        response = await answer(request, asked)
        await response(scope, receive, send)

    return app


def _misasked(request: Request, errors: Sequence[Any]) -> Problem:
    """Say what is wrong with the parameters, but only to whoever may ask."""
    caller_of(request, Role.ANALYST)
    return refused_parameters(errors)


async def _answer(services: Services, caller: Caller, question: Question, asked: Paging) -> Response:
    given = {name: getattr(asked, name) for name in question.query.model_fields}
    parameters: Query[Any] = question.query.model_construct(**given)
    try:
        if asked.token is not None:
            token = await token_of(services, caller, asked.token)
            _check(await services.following.token(question.model, question.read_model, token, asked.wait))
        if asked.at is not None:
            _check(
                await services.following.place(
                    question.model, question.read_model, At.parse(asked.at), asked.wait
                )
            )
        page = await services.questions.ask(
            question,
            parameters,
            tenant=caller.tenant,
            limit=asked.limit,
            cursor=asked.cursor,
            personal=Role.PERSONAL in caller.roles,
        )
    except Unacceptable as wrong:
        raise refused(wrong) from None
    except Behind as behind:
        raise Problem(503, "behind_its_code", str(behind), headers={"Retry-After": "30"}) from None
    for item in page.items:
        # Five times as fast as having the driver's kind of UUID written.
        item |= {name: str(item[name]) for name in question.read_model.ids if item[name] is not None}
    document = {
        "items": page.items,
        "next": page.next,
        "as_of": await _as_of(services, question.model, page.generation),
    }
    return Response(to_json(document), 200, {"Cache-Control": "no-store"}, "application/json")


def _check(reached: Reached) -> None:
    if reached.state == "reached":
        return
    final = reached.state in {"refused", "parked", "discarded"}
    raise Problem(
        409 if final else NOT_YET,
        reached.state if final else "not_yet",
        reached.detail or _SAID[reached.state],
        headers={} if final else {"Retry-After": "1"},
        state=reached.state,
        reason=reached.reason,
    )


async def _as_of(services: Services, model: ProjectionWiring, generation: int) -> dict[str, Any]:
    try:
        measured = await services.gauge.recent()
    except TRANSIENT:
        return {"lag_events": None, "lag_seconds": None, "measured_at": None}
    lag = measured.lags.get((model.name, generation), Lag())
    return {
        "lag_events": lag.events,
        "lag_seconds": None if lag.seconds is None else round(lag.seconds, 3),
        "measured_at": datetime.fromtimestamp(measured.measured_at, UTC),
    }


async def unknown_query(request: Request) -> Response:
    """Say which queries there are near the one that is not."""
    services = services_of(request)
    caller_of(request, Role.ANALYST)
    asked = f"{request.path_params['model']}/{request.path_params['query']}"
    near = get_close_matches(asked, names_of(services.catalog), 3, 0.4)
    hint = f"; near: {', '.join(near)}" if near else "; see /openapi.json"
    raise Problem(404, "unknown_query", f"{asked[:120]!r} is no query{hint}", near=near)


def names_of(catalog: Catalog) -> list[str]:
    """Name every query as its route does: `customer_spend/of_customer`."""
    return [f"{it.projection.name}/{name}" for it in catalog.projections.values() for name in it.queries]
