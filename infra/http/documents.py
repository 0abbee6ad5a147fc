"""`/openapi.json` and `/asyncapi.json`: the contracts, open to everybody, since they hold no secret."""

from __future__ import annotations

from functools import partial
from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import Response

from infra.contracts.asyncapi import asyncapi
from infra.contracts.catalogue import schemas
from infra.http.commands import public_commands
from infra.http.problems import MEDIA_TYPE
from infra.http.services import services_of
from infra.runtime.catalog import Catalog

_REF: Final = "#/components/schemas/{model}"
OPEN: Final = frozenset(
    {"/healthz", "/readyz", "/metrics", "/openapi.json", "/asyncapi.json", "/webhooks/stripe"}
)
DESCRIPTION: Final = """\
Every request needs `Authorization: Bearer <token>`, but for those marked otherwise. The token names one tenant; nothing
of another tenant can be seen or written with it. Roles: `publisher` (events, commands, outcomes), `analyst` (read models),
`pii` (with `analyst`: personal values in clear), `operator` (outcomes, metrics).

Errors are problem documents (RFC 9457) that name the field and the remedy.
"""
PROBLEM: Final = {
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string", "description": "urn:triplane:problem:<code>, stable."},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "What is wrong, and the remedy."},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "index": {"type": "integer", "description": "Which message of a batch, from 0."},
                    "code": {"type": "string"},
                    "field": {"type": ["string", "null"]},
                    "detail": {"type": "string"},
                },
            },
        },
        "state": {
            "type": "string",
            "description": "Of a read model that does not show a token's message: how far it came.",
        },
        "reason": {"type": ["string", "null"]},
    },
}


def install(app: FastAPI, catalog: Catalog) -> None:
    """Make `app` describe itself with the contracts' own schemas."""
    app.openapi = partial(_openapi, app, catalog)  # type: ignore[method-assign]


def _openapi(app: FastAPI, catalog: Catalog) -> dict[str, Any]:
    if app.openapi_schema is None:
        document = get_openapi(
            title="Triplane",
            version=app.version,
            description=DESCRIPTION,
            routes=app.routes,
            openapi_version="3.1.0",
        )
        _, definitions = schemas([it.model for it in public_commands(catalog)], _REF)
        components: dict[str, Any] = document.setdefault("components", {})
        components["schemas"] = {**definitions, **components.get("schemas", {}), "Problem": PROBLEM}
        components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}}
        for path, item in document["paths"].items():
            for operation in item.values():
                operation["responses"].pop("422", None)
                operation["responses"]["default"] = _problem()
                if path in OPEN:
                    operation["security"] = []
        document["security"] = [{"token": []}]
        components["schemas"].pop("HTTPValidationError", None)
        components["schemas"].pop("ValidationError", None)
        app.openapi_schema = document
    return app.openapi_schema


def _problem() -> dict[str, Any]:
    return {
        "description": "What is wrong, and the remedy.",
        "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }


def command_reference(catalog: Catalog) -> dict[str, dict[str, Any]]:
    """Give the schema reference of every public command, by name."""
    contracts = public_commands(catalog)
    references, _ = schemas([it.model for it in contracts], _REF)
    return {it.name: references[it.model] for it in contracts}


async def get_asyncapi(request: Request) -> Response:
    """Give the AsyncAPI document."""
    services = services_of(request)
    return Response(
        to_json(asyncapi(services.catalog, services.settings.kafka)), media_type="application/json"
    )
