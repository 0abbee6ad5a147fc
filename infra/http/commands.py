"""`POST /commands/<context>/<Command>`: one route a public command; the same Idempotency-Key is answered the same.

The answer is stored in the transaction that takes the command in, so a repeated request changes nothing and gets the
same status and bytes. `GET /commands/{id}` tells what came of it.
"""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from difflib import get_close_matches
from hashlib import blake2b
from typing import Any, Final
from uuid import UUID

from pydantic_core import from_json, to_json
from starlette.requests import Request
from starlette.responses import Response

from events import Message
from infra.errors import Unacceptable
from infra.http.authentication import Caller, Role
from infra.http.bodies import is_json, media_type, read_body
from infra.http.events import check_tenant
from infra.http.problems import Problem, refused
from infra.http.services import Services, caller_of, services_of
from infra.postgres.database import TRANSIENT
from infra.runtime.catalog import Catalog, Contract
from infra.runtime.intake.outcomes import Outcome
from infra.runtime.intake.tokens import Token, parse_token
from infra.runtime.messages import strict_json
from infra.runtime.messages.envelope import TRACEPARENT, Envelope
from infra.runtime.messages.ids import derived_id
from infra.runtime.publishing import outbox
from infra.runtime.publishing.outbox import Outgoing

MAX_KEY: Final = 255
_KEY: Final = re.compile(r"[\x21-\x7e]{1,255}\Z")
_CORRELATION: Final = re.compile(r"[\x21-\x7e]{1,255}\Z")

_TAKE: Final = """
    WITH lock AS MATERIALIZED (
      SELECT pg_try_advisory_xact_lock(hashtextextended($1 || chr(10) || $2 || chr(10) || $3, 0)) AS mine),
    known AS (SELECT body_hash, status, answer, message_id FROM answers WHERE tenant = $1 AND route = $2 AND key = $3),
    taken AS (
      INSERT INTO answers (tenant, route, key, body_hash, status, answer, message_id)
      SELECT $1, $2, $3, $4, $5, $6, $7 FROM lock WHERE mine AND NOT EXISTS (SELECT FROM known)
      ON CONFLICT DO NOTHING RETURNING 1),
    sent AS (
      INSERT INTO outbox (bucket, id, topic, key, headers, value)
      SELECT $8::smallint, $9::uuid, $10::text, $11::text, $12::text::json, $13::bytea FROM taken)
    SELECT lock.mine, EXISTS (SELECT FROM taken) AS taken, known.body_hash AS known_hash, known.status AS known_status,
           known.answer AS known_answer, known.message_id AS known_id FROM lock LEFT JOIN known ON true"""
"""One statement is one round trip and one transaction: what was answered before, or the answer kept and the command sent."""

Endpoint = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Answer:
    """What was answered to an Idempotency-Key, to the byte."""

    status: int
    text: str
    message_id: UUID

    def response(self, *, replayed: bool) -> Response:
        """Give it (again)."""
        headers = {"Location": f"/commands/{self.message_id}", "Idempotency-Replayed": str(replayed).lower()}
        return Response(self.text, self.status, headers, "application/json")


def public_commands(catalog: Catalog) -> list[Contract]:
    """Give every command that upstream may send."""
    return [it for it in catalog.contracts.values() if it.kind == "command" and it.public]


def endpoint(contract: Contract) -> Endpoint:
    """Make the route of one command."""

    async def post_command(request: Request) -> Response:
        services = services_of(request)
        caller = caller_of(request, Role.PUBLISHER)
        key = _idempotency_key(request)
        kind = media_type(request)
        if not is_json(kind):
            raise Problem(
                415, "content_type", f"content-type: {kind[:80]!r} is not read; send application/json"
            )
        body = await read_body(request)
        try:
            outgoing = await _admit(services, caller, contract, key, body, request)
        except Unacceptable as wrong:
            services.metrics.admitted.labels("commands", "refused").inc()
            raise refused(wrong) from None
        answer, replayed = await _answer(services, contract, key, body, outgoing)
        services.metrics.admitted.labels("commands", "repeated" if replayed else "accepted").inc()
        return answer.response(replayed=replayed)

    post_command.__name__ = f"post_{contract.name.replace('.', '_')}"
    return post_command


def _idempotency_key(request: Request) -> str:
    given = request.headers.getlist("idempotency-key")
    if not given:
        raise refused(
            Unacceptable(
                "idempotency_key",
                "Idempotency-Key: missing; send a new one with every new command, such as a UUID",
            )
        )
    if len(given) > 1 or not _KEY.match(given[0]):
        raise refused(
            Unacceptable(
                "idempotency_key",
                f"Idempotency-Key: send one of 1 to {MAX_KEY} printable ASCII characters, no spaces",
            )
        )
    return given[0]


async def _admit(
    services: Services, caller: Caller, contract: Contract, key: str, body: bytes, request: Request
) -> Outgoing:
    data = strict_json.parse(body)
    if not isinstance(data, dict):
        raise Unacceptable("not_an_object", f"the body of {contract.name} is a JSON object")
    _refuse_unknown(contract.model, data)
    message_id = str(derived_id("http", caller.tenant, contract.name, key))
    traceparent = request.headers.get("traceparent", "")
    correlation = request.headers.get("x-correlation-id", "")
    envelope = Envelope(
        id=message_id,
        type=contract.name,
        source=f"api/{caller.subject}",
        tenant=caller.tenant,
        version=contract.current,
        time=datetime.now(UTC),
        correlation=correlation if _CORRELATION.match(correlation) else message_id,
        traceparent=traceparent if TRACEPARENT.match(traceparent) else None,
    )
    check_tenant(envelope, caller)
    return await services.admission.admit(envelope, body)


def _refuse_unknown(model: type[Message], data: dict[str, Any]) -> None:
    """Refuse what the contract does not name: whoever commands wants all of it done."""
    for name in data:
        if name not in model.model_fields:
            near = get_close_matches(name, model.model_fields, 1)
            hint = f"; did you mean {near[0]!r}?" if near else "; leave it out"
            raise Unacceptable("unknown_field", f"{name[:80]}: {model.__name__} has no such field{hint}")


async def _answer(
    services: Services, contract: Contract, key: str, body: bytes, outgoing: Outgoing
) -> tuple[Answer, bool]:
    """Take the command in and keep the answer, or give the answer that was kept."""
    envelope = outgoing.envelope
    digest = blake2b(body, digest_size=32).digest()
    document = {
        "id": envelope.id,
        "token": str(Token.of(envelope, body)),
        "location": f"/commands/{envelope.id}",
    }
    fresh = Answer(202, to_json(document).decode(), UUID(envelope.id))
    give_up = time.monotonic() + 2
    while True:
        try:
            return await _once(services, contract.name, key, digest, outgoing, fresh)
        except TRANSIENT:
            # Whether it was committed shows when it is tried again: then the key is known.
            if time.monotonic() > give_up:
                raise


async def _once(
    services: Services, route: str, key: str, digest: bytes, outgoing: Outgoing, fresh: Answer
) -> tuple[Answer, bool]:
    (found,) = await services.intake.fetch(
        _TAKE,
        outgoing.envelope.tenant,
        route,
        key,
        digest,
        fresh.status,
        fresh.text,
        fresh.message_id,
        *outbox.columns(outgoing),
    )
    if found["known_status"] is not None:
        if found["known_hash"] != digest:
            raise Problem(
                422,
                "idempotency_key_reused",
                "Idempotency-Key: was used before with another body; send a new key with a new command",
            )
        return Answer(found["known_status"], found["known_answer"], found["known_id"]), True
    if not found["taken"]:
        said = "has just ended" if found["mine"] else "is still at work"
        raise Problem(
            409,
            "in_flight",
            f"Idempotency-Key: its first request {said}; try again",
            headers={"Retry-After": "1"},
        )
    services.wakeups.poke(services.intake)
    return fresh, False


async def unknown_command(request: Request) -> Response:
    """Say which commands there are near the one that is not."""
    services = services_of(request)
    caller_of(request, Role.PUBLISHER)
    asked = f"{request.path_params['context']}.{request.path_params['command']}"
    names = [it.name for it in public_commands(services.catalog)]
    near = get_close_matches(asked, names, 3, 0.4)
    hint = f"; near: {', '.join(near)}" if near else "; see /openapi.json"
    raise Problem(
        404, "unknown_command", f"{asked[:120]!r} is no command that is taken from outside{hint}", near=near
    )


async def get_outcome(request: Request) -> Response:
    """Tell what came of a command, by its id, or of any message, by its token."""
    services = services_of(request)
    caller = caller_of(request, Role.PUBLISHER, Role.OPERATOR)
    given: str = request.path_params["id"]
    token = await token_of(services, caller, given)
    outcome = await services.outcomes.of(token)
    if outcome is None:
        raise Problem(
            404,
            "unknown_message",
            "nothing is known of that message, or not yet: one sent to Kafka shows once it is read",
        )
    return Response(
        to_json(_document(token, outcome)), 200, {"Cache-Control": "no-store"}, "application/json"
    )


async def token_of(services: Services, caller: Caller, given: str) -> Token:
    """Read a token, or the id of a command; raise 400 for neither, and 404 for another tenant's."""
    unknown = Problem(
        404,
        "unknown_message",
        "token: nothing is known of that message; send the 'token' from the answer to the command or event, or a command's 'id'",
    )
    try:
        message_id = UUID(given)
    except ValueError:
        try:
            token = parse_token(given)
        except Unacceptable as wrong:
            raise refused(wrong) from None
    else:
        rows = await services.intake.fetch(
            "SELECT answer FROM answers WHERE message_id = $1 AND tenant = $2", message_id, caller.tenant
        )
        if not rows:
            raise unknown
        token = parse_token(from_json(rows[0]["answer"])["token"])
    if token.tenant != caller.tenant:
        raise unknown
    return token


def _document(token: Token, outcome: Outcome) -> dict[str, Any]:
    return {
        "id": token.id,
        "source": token.source,
        "state": outcome.state,
        "reason": outcome.reason,
        "detail": outcome.detail,
        "events": [
            {
                "id": it.id,
                "type": it.type,
                "key": it.key,
                "version": it.version,
                "recorded_at": it.recorded_at,
            }
            for it in outcome.facts
        ],
    }
