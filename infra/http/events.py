"""`POST /events`: CloudEvents over HTTP, binary, structured or in batches, checked like `.inbound` and durable when answered."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import unquote

from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import Response

from infra.errors import Unacceptable
from infra.http.authentication import Caller, Role
from infra.http.bodies import is_json, media_type, read_body
from infra.http.problems import Problem, error_of, refused, status_of
from infra.http.services import Services, caller_of, services_of
from infra.postgres.database import TRANSIENT
from infra.runtime.intake.tokens import Token
from infra.runtime.messages import strict_json
from infra.runtime.messages.envelope import Envelope, envelope_of, open_event
from infra.runtime.publishing import outbox
from infra.runtime.publishing.outbox import Outgoing

BINARY: Final = "application/json"
STRUCTURED: Final = "application/cloudevents+json"
BATCH: Final = "application/cloudevents-batch+json"
MAX_BATCH: Final = 1_000


async def post_events(request: Request) -> Response:
    """Take in one event or a batch; all of it or nothing."""
    services = services_of(request)
    caller = caller_of(request, Role.PUBLISHER)
    kind = media_type(request)
    if not is_json(kind):
        accepted = [BINARY, STRUCTURED, BATCH]
        raise Problem(
            415, "content_type", f"content-type: {kind[:80]!r} is not read; send one of {', '.join(accepted)}"
        )
    body = await read_body(request, accepted=(BINARY, STRUCTURED, BATCH))
    now = datetime.now(UTC)
    try:
        opened = _open(request, kind, body, now, caller.tenant)
    except Unacceptable as wrong:
        services.metrics.admitted.labels("events", "refused").inc()
        raise refused(wrong) from None
    admitted = await _admit(services, caller, opened, batch=kind == BATCH)
    await store(services, admitted)
    services.metrics.admitted.labels("events", "accepted").inc(len(admitted))
    answers = [
        {"id": it.envelope.id, "source": it.envelope.source, "token": str(Token.of(it.envelope, it.value))}
        for it in admitted
    ]
    return Response(
        to_json({"accepted": len(answers), "events": answers}), 202, media_type="application/json"
    )


def _open(
    request: Request, kind: str, body: bytes, now: datetime, tenant: str
) -> list[tuple[Envelope, bytes] | Unacceptable]:
    if kind == STRUCTURED:
        return [open_event(strict_json.parse(body), now, inbound=True, tenant=tenant)]
    if kind == BATCH:
        events = strict_json.parse(body)
        if not isinstance(events, list):
            raise Unacceptable("not_an_object", "a batch is a JSON list of structured CloudEvents")
        if len(events) > MAX_BATCH:
            raise Unacceptable(
                "too_large", f"a batch of {len(events)} events; send at most {MAX_BATCH} at a time"
            )
        return [_one_of_batch(event, now, tenant) for event in events]
    attributes = _attributes(request, tenant)
    if "specversion" not in attributes:
        raise Unacceptable(
            "missing_attribute",
            f"ce_specversion: missing; send the attributes as headers (ce-specversion, ce-id, ce-type, ...), "
            f"or the whole event in one JSON object as {STRUCTURED}",
        )
    return [(envelope_of(attributes, now, inbound=True), body)]


def _one_of_batch(event: object, now: datetime, tenant: str) -> tuple[Envelope, bytes] | Unacceptable:
    try:
        return open_event(event, now, inbound=True, tenant=tenant)
    except Unacceptable as wrong:
        return wrong


def _attributes(request: Request, tenant: str) -> dict[str, str]:
    """Read the `ce-` headers of binary mode, which are percent-encoded where not ASCII."""
    found = {"tenantid": tenant}
    seen: set[str] = set()
    for name, value in request.headers.items():
        if name in seen and (name.startswith("ce-") or name in {"traceparent", "content-type"}):
            raise Unacceptable("header_twice", f"{name}: stands twice; send it once")
        seen.add(name)
        if name.startswith("ce-"):
            found[name.removeprefix("ce-")] = unquote(value)
        elif name == "traceparent":
            found[name] = value
    return found


async def _admit(
    services: Services, caller: Caller, opened: list[tuple[Envelope, bytes] | Unacceptable], *, batch: bool
) -> list[Outgoing]:
    admitted: list[Outgoing] = []
    wrongs: list[tuple[int, Unacceptable]] = []
    for index, it in enumerate(opened):
        try:
            if isinstance(it, Unacceptable):
                raise it
            check_tenant(it[0], caller)
            admitted.append(await services.admission.admit(*it))
        except Unacceptable as wrong:
            wrongs.append((index, wrong))
    if not wrongs:
        return admitted
    services.metrics.admitted.labels("events", "refused").inc(len(wrongs))
    if not batch:
        raise refused(wrongs[0][1])
    statuses = {status_of(wrong) for _, wrong in wrongs}
    raise Problem(
        statuses.pop() if len(statuses) == 1 else 422,
        "batch_refused",
        f"{len(wrongs)} of {len(opened)} events are refused, so none was taken; correct those that 'errors' lists",
        errors=[error_of(wrong, index) for index, wrong in wrongs[:100]],
    )


def check_tenant(envelope: Envelope, caller: Caller) -> None:
    """Refuse a message for another tenant than the token's."""
    if envelope.tenant != caller.tenant:
        raise Unacceptable(
            "tenant_mismatch",
            f"ce_tenantid: is {envelope.tenant!r}, but the token is for {caller.tenant!r}; leave it out, or use that tenant's token",
        )


async def store(services: Services, messages: list[Outgoing]) -> None:
    """Commit messages to the intake's outbox; a second try after a lost connection at worst sends duplicates."""
    give_up = time.monotonic() + 2
    while True:
        try:
            async with services.intake.transaction() as tx:
                await outbox.write(tx, messages)
        except TRANSIENT:
            if time.monotonic() > give_up:
                raise
        else:
            break
    services.wakeups.poke(services.intake)


def openapi() -> dict[str, Any]:
    """Describe the request body and answers."""
    event = {
        "type": "object",
        "description": "A CloudEvent 1.0 in JSON; see /asyncapi.json for types and data.",
    }
    return {
        "requestBody": {
            "required": True,
            "content": {
                BINARY: {
                    "schema": {"type": "object", "description": "The data; attributes stand in ce-* headers."}
                },
                STRUCTURED: {"schema": event},
                BATCH: {"schema": {"type": "array", "items": event, "maxItems": MAX_BATCH}},
            },
        }
    }
