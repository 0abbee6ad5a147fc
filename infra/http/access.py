"""One line a request in the log, and one observation in the metrics: no body, no secret, no query string."""

from __future__ import annotations

import re
import time
from typing import Any, Final
from uuid import uuid4

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from infra.http.metrics import Metrics
from infra.http.problems import Problem

log = structlog.get_logger("triplane.http")

MAX_HEADERS: Final = 32_768
MAX_HEADER_COUNT: Final = 100
QUIET: Final = frozenset({"/healthz", "/readyz", "/metrics"})
_CORRELATION: Final = re.compile(rb"[\x21-\x7e]{1,255}\Z")


class Access:
    """Wraps an application."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        """Observe into `metrics`."""
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, and tell of it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        status = 500
        correlation = _correlation(scope)

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-correlation-id", correlation.encode())]
            await send(message)

        structlog.contextvars.bind_contextvars(correlation=correlation)
        try:
            refusal = _flooded(scope)
            if refusal is None:
                await self._app(scope, receive, noting)
            else:
                await refusal.response()(scope, receive, noting)
        finally:
            seconds = time.perf_counter() - began
            route = _route(scope)
            self._metrics.requests.labels(scope["method"], route, str(status)).observe(seconds)
            if route not in QUIET:
                log.info(
                    "request",
                    method=scope["method"],
                    route=route,
                    status=status,
                    ms=round(seconds * 1000, 1),
                    tenant=scope.get("triplane.tenant"),
                )
            structlog.contextvars.unbind_contextvars("correlation")


def _flooded(scope: Scope) -> Problem | None:
    headers: list[tuple[bytes, bytes]] = scope["headers"]
    if (
        len(headers) > MAX_HEADER_COUNT
        or sum(len(name) + len(value) for name, value in headers) > MAX_HEADERS
    ):
        detail = f"more than {MAX_HEADER_COUNT} headers or {MAX_HEADERS} bytes of them; send less"
        return Problem(431, "headers_too_large", detail, headers={"Connection": "close"})
    return None


def _correlation(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-correlation-id" and _CORRELATION.match(value):
            return str(value.decode("ascii"))
    return str(uuid4())


def _route(scope: Scope) -> str:
    """Name the route, not the path: paths hold ids, and any stranger can make up new ones."""
    route: Any = scope.get("route")
    path: str = getattr(route, "path", "") or "(none)"
    return path
