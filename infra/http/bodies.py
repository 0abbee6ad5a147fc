"""Reads a request's body, bounded in size and time, and says what it must be."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Final

from starlette.requests import ClientDisconnect, Request

from infra.http.problems import Problem

MAX_BODY: Final = 1_048_576
DRAINED: Final = 4_194_304
"""Bytes beyond the limit that are read and dropped, so that whoever sends a little too much can read the answer."""
SLOW_S: Final = 20.0
"""A body that takes longer is given up."""


def media_type(request: Request) -> str:
    """Give the body's media type, without parameters; raise 415 for one in another encoding than UTF-8."""
    kind, *parameters = (part.strip().lower() for part in request.headers.get("content-type", "").split(";"))
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "charset" and value.strip(' "') not in {"utf-8", "utf8"}:
            raise Problem(
                415, "content_type", f"content-type: charset {value[:40]!r} is not read; send UTF-8"
            )
    return kind


def is_json(kind: str) -> bool:
    """Whether a media type is JSON."""
    return kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))


async def read_body(
    request: Request, *, limit: int = MAX_BODY, accepted: Collection[str] = ("application/json",)
) -> bytes:
    """Read the whole body; raise 408, 413 or 415. `accepted` is for the message alone: the caller checks the type."""
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise Problem(
            415,
            "content_encoding",
            "content-encoding: compressed bodies are not read; send it as it is",
            accepted=list(accepted),
        )
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit + DRAINED:
        raise _too_large(limit)
    body = bytearray()
    beyond = 0
    try:
        async with asyncio.timeout(SLOW_S):
            async for chunk in request.stream():
                if len(body) + len(chunk) > limit:
                    beyond += len(chunk)
                else:
                    body += chunk
                if beyond > DRAINED:
                    break
    except TimeoutError:
        detail = f"the body did not arrive within {SLOW_S:.0f} s; send it again"
        raise Problem(408, "slow_body", detail, headers={"Connection": "close"}) from None
    except ClientDisconnect:
        raise Problem(400, "disconnected", "the connection ended before the body") from None
    if beyond:
        raise _too_large(limit)
    return bytes(body)


def _too_large(limit: int) -> Problem:
    detail = f"the body is larger than {limit} bytes; send less at a time"
    # What is still to come is not read, so the connection cannot be used again.
    return Problem(413, "too_large", detail, headers={"Connection": "close"})
