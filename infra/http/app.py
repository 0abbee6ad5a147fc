"""The application: a route for every public command and every query, made from the catalogue."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any, Final

import structlog
from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from infra.http import commands, documents, events, health, reads, webhooks
from infra.http.access import Access
from infra.http.catch_up import catch_up
from infra.http.metrics import Metrics
from infra.http.problems import Problem
from infra.http.relaying import relaying
from infra.http.services import open_services
from infra.postgres.database import TRANSIENT
from infra.runtime.asking.questions import Question
from infra.runtime.catalog import Catalog, Contract
from infra.settings import Settings

log = structlog.get_logger(__name__)

_IDEMPOTENCY: Final = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": True,
    "description": "New for every new command; the same again changes nothing and is answered the same.",
    "schema": {"type": "string", "minLength": 1, "maxLength": commands.MAX_KEY},
}
_BEHIND_A_TOKEN: Final[dict[int | str, dict[str, Any]]] = {
    409: {"description": "The token's message was refused, parked or given up; see `state`."},
    reads.NOT_YET: {"description": "The read model does not show the token's message yet; see `state`."},
}


def create_app(settings: Settings, catalog: Catalog) -> FastAPI:
    """Make the application; it opens its connections when it starts."""
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        async with open_services(settings, catalog, metrics) as services:
            app.state.services = services
            stop = asyncio.Event()
            publishing = asyncio.create_task(relaying(services, stop))
            catching_up = asyncio.create_task(catch_up(services))
            try:
                yield
            finally:
                stop.set()
                catching_up.cancel()
                await asyncio.gather(publishing, catching_up, return_exceptions=True)

    app = FastAPI(
        title="Triplane",
        version="1",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    _add_routes(app, catalog)
    documents.install(app, catalog)
    app.add_exception_handler(Problem, _problem)
    app.add_exception_handler(HTTPException, _plain)
    for kind in TRANSIENT:
        if issubclass(kind, Exception):
            app.add_exception_handler(kind, _away)
    app.add_exception_handler(Exception, _unexpected)
    app.add_middleware(Access, metrics=metrics)
    return app


async def _welcome(_request: Request) -> dict[str, str]:
    """Say where to go on from the address that `up` prints."""
    return {
        "name": "Triplane",
        "openapi": "/openapi.json",
        "asyncapi": "/asyncapi.json",
        "health": "/readyz",
        "metrics": "/metrics",
    }


def _add_routes(app: FastAPI, catalog: Catalog) -> None:
    # First: routes are tried in turn, and a query is over before most of them have been.
    for wiring in catalog.projections.values():
        for question in reads.questions_of(wiring).values():
            _add_query(app, question)
    app.add_api_route("/", _welcome, methods=["GET"], include_in_schema=False)
    open_routes: dict[str, Callable[[Request], Awaitable[Response]]] = {
        "/healthz": health.healthz,
        "/readyz": health.readyz,
        "/metrics": health.metrics,
        "/asyncapi.json": documents.get_asyncapi,
    }
    for path, function in open_routes.items():
        app.add_api_route(path, function, methods=["GET"], tags=["platform"], response_class=Response)
    app.add_api_route(
        "/events",
        events.post_events,
        methods=["POST"],
        status_code=202,
        tags=["in"],
        openapi_extra=events.openapi(),
    )
    references = documents.command_reference(catalog)
    for contract in commands.public_commands(catalog):
        _add_command(app, contract, references[contract.name])
    app.add_api_route(
        "/commands/{context}/{command}", commands.unknown_command, methods=["POST"], include_in_schema=False
    )
    app.add_api_route(
        "/commands/{id}",
        commands.get_outcome,
        methods=["GET"],
        tags=["in"],
        openapi_extra={
            "parameters": [_path_parameter("id", "The id of a command, or the token of any message.")]
        },
    )
    app.add_api_route("/webhooks/stripe", webhooks.post_stripe, methods=["POST"], tags=["in"])
    app.add_api_route("/read/{model}/{query}", reads.unknown_query, methods=["GET"], include_in_schema=False)


def _add_command(app: FastAPI, contract: Contract, reference: dict[str, Any]) -> None:
    context, _, name = contract.name.partition(".")
    app.add_api_route(
        f"/commands/{context}/{name}",
        commands.endpoint(contract),
        methods=["POST"],
        status_code=202,
        tags=[f"commands: {context}"],
        summary=f"{name}: {(contract.model.__doc__ or '').strip().splitlines()[0]}",
        openapi_extra={
            "parameters": [_IDEMPOTENCY],
            "requestBody": {"required": True, "content": {"application/json": {"schema": reference}}},
        },
    )


def _add_query(app: FastAPI, question: Question) -> None:
    parameters = reads.parameters_of(question)
    endpoint = reads.endpoint(question, parameters)
    app.add_api_route(
        f"/read/{question.model.projection.name}/{question.name}",
        endpoint,
        methods=["GET"],
        tags=["read"],
        response_model=reads.page_of(question),
        responses=_BEHIND_A_TOKEN,
    )
    (route,) = (it for it in app.routes if isinstance(it, APIRoute) and it.endpoint is endpoint)
    route.app = reads.answering(endpoint, parameters)


def _path_parameter(name: str, meaning: str) -> dict[str, Any]:
    return {
        "name": name,
        "in": "path",
        "required": True,
        "description": meaning,
        "schema": {"type": "string"},
    }


async def _problem(_request: Request, raised: Exception) -> Response:
    assert isinstance(raised, Problem)
    return raised.response()


async def _plain(_request: Request, raised: Exception) -> Response:
    assert isinstance(raised, HTTPException)
    code = HTTPStatus(raised.status_code).phrase.lower().replace(" ", "_")
    return Problem(raised.status_code, code, str(raised.detail), headers=raised.headers).response()


async def _away(_request: Request, raised: Exception) -> Response:
    log.warning("database away", error=repr(raised))
    return Problem(
        503,
        "database_away",
        "the database cannot be reached; nothing was done, send it again",
        headers={"Retry-After": "2"},
    ).response()


async def _unexpected(_request: Request, raised: Exception) -> Response:
    log.error("unexpected error", exc_info=raised)
    return Problem(
        500, "unexpected", "an error of the platform, which is logged; it was not your request"
    ).response()
