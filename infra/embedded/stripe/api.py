"""The HTTP surface: Stripe's paths, its idempotency, its errors; and a few of our own to make trouble on demand."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import re
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode

import structlog
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from infra.embedded.stripe.courier import LOST, Courier, Manners
from infra.embedded.stripe.faults import AT_EXECUTION, ON_ARRIVAL, Fault, Faults
from infra.embedded.stripe.forms import Object, Params, Refused, nested
from infra.embedded.stripe.rules import (
    Change,
    NewIntent,
    NewRefund,
    authenticate,
    cancel,
    confirm,
    create,
    identifier,
    refund,
)
from infra.embedded.stripe.store import Answer, KeyTaken, Page, Store, Transaction

__all__ = ["Simulator"]

BODY_LIMIT: Final = 1024 * 1024
KEY_LIMIT: Final = 255
_EXPANDABLE = frozenset({"latest_charge", "charge", "payment_intent"})
_LISTED = ("limit", "starting_after", "expand")
_CLAUSE = re.compile(
    r"""(?:metadata\[(?P<q>["'])(?P<key>[^"']+)(?P=q)\]|(?P<field>status|currency)):(?P<r>["'])(?P<value>[^"']*)(?P=r)"""
)

_UNDER_WAY = Refused(
    409, "Another request with this key is under way.", "idempotency_key_in_use", type="idempotency_error"
)
_BROKEN = Answer(500, Refused(500, "Something went wrong on Stripe's end.", type="api_error").body)

_log = structlog.get_logger(__name__)

Run = Callable[[Transaction], Awaitable[Change]]
"""What a checked request does within its transaction."""

Handler = Callable[[Request, Object], Awaitable["Answer"]]


@dataclass
class Simulator:
    """One account of Stripe."""

    store: Store
    courier: Courier
    api_key: str
    faults: Faults
    search_lag: float = 0.0
    """Seconds until a written intent can be searched for, as at Stripe."""

    def __post_init__(self) -> None:
        """Start with no request under way."""
        self._under_way: set[str] = set()

    def routes(self) -> list[Route]:
        """Give every path that is served."""
        intents, one = "/v1/payment_intents", "/v1/payment_intents/{id}"
        table: list[tuple[str, str, Handler]] = [
            ("POST", intents, self._writing(NewIntent.KNOWN, self._create_intent)),
            ("GET", intents, self._list_intents),
            ("GET", f"{intents}/search", self._search),
            ("GET", one, self._get("payment_intent")),
            (
                "POST",
                f"{one}/confirm",
                self._writing({"payment_method", "off_session", "return_url"}, self._confirm),
            ),
            ("POST", f"{one}/cancel", self._writing({"cancellation_reason"}, self._cancel)),
            ("POST", "/v1/refunds", self._writing(NewRefund.KNOWN, self._create_refund)),
            ("GET", "/v1/refunds", self._list_refunds),
            ("GET", "/v1/refunds/{id}", self._get("refund")),
            ("GET", "/v1/charges/{id}", self._get("charge")),
            ("GET", "/v1/events", self._list_events),
            ("GET", "/v1/events/{id}", self._get("event")),
            ("GET", "/simulator", self._count),
            ("POST", "/simulator/faults", self._add_fault),
            ("DELETE", "/simulator/faults", self._heal),
            ("POST", "/simulator/manners", self._behave),
            ("POST", "/simulator/payment_intents/{id}/authenticate", self._authenticate),
        ]
        methods: dict[str, dict[str, Handler]] = {}
        for method, path, handler in table:
            methods.setdefault(path, {})[method] = handler
        return [
            Route(path, self._served(handlers), methods=list(handlers)) for path, handlers in methods.items()
        ]

    def _served(self, handlers: dict[str, Handler]) -> Callable[[Request], Awaitable[Response]]:
        async def serve(request: Request) -> Response:
            headers = {"Request-Id": identifier("req")}
            if key := request.headers.get("Idempotency-Key"):
                headers["Idempotency-Key"] = key.encode("ascii", "replace").decode()
            if version := request.headers.get("Stripe-Version"):
                headers["Stripe-Version"] = version
            request.state.id = headers["Request-Id"]
            try:
                self._authorise(request)
                self._strike_on_arrival(request)
                handler = handlers["GET" if request.method == "HEAD" else request.method]
                answer = await handler(request, await _fields(request))
            except Refused as refused:
                answer = Answer(refused.status, refused.body)
            except KeyTaken:
                answer = Answer(409, _UNDER_WAY.body)
            except LOST as lost:
                _log.warning("database_failed", error=str(lost))
                answer = Answer(503, Refused(503, "The simulator's database failed.", type="api_error").body)
            if answer.replayed:
                headers["Idempotent-Replayed"] = "true"
            if answer.status >= 500:
                # A remembered 500 would only be replayed.
                headers["Stripe-Should-Retry"] = "true" if answer.status == 503 else "false"
            body = json.dumps(answer.body).encode()
            return Response(body, answer.status, headers, media_type="application/json")

        return serve

    def _authorise(self, request: Request) -> None:
        scheme, _, key = request.headers.get("Authorization", "").partition(" ")
        if scheme != "Bearer" or not key:
            raise Refused(401, "Give your API key in the header 'Authorization: Bearer KEY'.")
        if not hmac.compare_digest(key.encode(), self.api_key.encode()):
            raise Refused(401, f"Invalid API Key provided: {key[:8]}***{key[-4:]}")

    def _strike_on_arrival(self, request: Request) -> None:
        fault = self.faults.strike(ON_ARRIVAL, request.method, _resource(request))
        if fault and fault.kind == "429":
            raise Refused(429, "Too many requests.", "rate_limit")
        if fault:
            raise Refused(503, "Stripe is unavailable.", type="api_error")

    # -- writing -------------------------------------------------------------------------------------------------------

    def _writing(self, known: Iterable[str], check: Callable[[Request, Params], Run]) -> Handler:
        names = frozenset(known) | {"expand"}

        async def write(request: Request, fields: Object) -> Answer:
            params = Params(fields, names)
            expand = _expansions(params)
            act = check(request, params)

            async def run(transaction: Transaction) -> Answer:
                change = await act(transaction)
                await self._write(transaction, change, {"id": request.state.id, "idempotency_key": key})
                (body,) = await _expanded([change.answer], expand, transaction)
                return Answer(change.status, body)

            key = request.headers.get("Idempotency-Key") or identifier("key")
            if len(key) > KEY_LIMIT:
                raise Refused(
                    400, f"Idempotency keys have up to {KEY_LIMIT} characters.", type="idempotency_error"
                )
            if key in self._under_way:
                raise KeyTaken
            self._under_way.add(key)
            try:
                return await self._once(request, key, _fingerprint(request, fields), run)
            finally:
                self._under_way.discard(key)

        return write

    async def _once(
        self, request: Request, key: str, fingerprint: str, run: Callable[[Transaction], Awaitable[Answer]]
    ) -> Answer:
        """Execute unless the key has an answer; change and answer are one transaction."""
        async with self.store.transaction() as transaction:
            if answer := await transaction.answered(key, fingerprint):
                return answer
            fault = self.faults.strike(AT_EXECUTION, request.method, _resource(request))
            kind = fault.kind if fault else None
            try:
                answer = _BROKEN if kind == "500_before_charge" else await run(transaction)
            except Refused as refused:
                # Execution had begun, so this is the answer for good.
                answer = Answer(refused.status, refused.body)
            if kind == "500_after_charge":
                answer = _BROKEN
            await transaction.remember(key, fingerprint, answer)
        if fault and kind == "timeout_after_charge":
            await _hold(request, fault.seconds)
        return answer

    async def _write(self, transaction: Transaction, change: Change, request: Object) -> None:
        about = request["idempotency_key"] or request["id"]
        plan = self.courier.plan((type_ for type_, _ in change.events), about)
        await transaction.write(change, request, int(time.time()), plan)

    def _create_intent(self, _: Request, params: Params) -> Run:
        asked = NewIntent.read(params)

        async def run(_: Transaction) -> Change:
            return create(asked, int(time.time()))

        return run

    def _confirm(self, request: Request, params: Params) -> Run:
        method, unattended = params.text("payment_method"), params.flag("off_session") or False

        async def run(transaction: Transaction) -> Change:
            intent = await transaction.lock("payment_intent", request.path_params["id"])
            return confirm(intent, method, int(time.time()), unattended=unattended)

        return run

    def _cancel(self, request: Request, params: Params) -> Run:
        reason = params.text("cancellation_reason")

        async def run(transaction: Transaction) -> Change:
            intent = await transaction.lock("payment_intent", request.path_params["id"])
            return cancel(intent, reason, int(time.time()))

        return run

    def _create_refund(self, _: Request, params: Params) -> Run:
        asked = NewRefund.read(params)

        async def run(transaction: Transaction) -> Change:
            intent_id, param = asked.intent or "", "payment_intent"
            if asked.charge:
                found = (await transaction.many([asked.charge])).get(asked.charge, {})
                intent_id, param = found.get("payment_intent", asked.charge), "charge"
            intent = await transaction.lock("payment_intent", intent_id, param)
            if intent["status"] != "succeeded":
                message = f"PaymentIntent {intent['id']} has no successful charge to refund."
                raise Refused(400, message, "payment_intent_unexpected_state", param, payment_intent=intent)
            charge = await transaction.lock("charge", intent["latest_charge"])
            return refund(asked, charge, int(time.time()))

        return run

    # -- reading -------------------------------------------------------------------------------------------------------

    def _get(self, kind: str) -> Handler:
        async def get(request: Request, fields: Object) -> Answer:
            expand = _expansions(Params(fields, {"expand"}))
            found = await self.store.get(kind, request.path_params["id"])
            (body,) = await _expanded([found], expand, self.store)
            return Answer(200, body)

        return get

    async def _list_intents(self, request: Request, fields: Object) -> Answer:
        params = Params(fields, {*_LISTED, "created"})
        return await self._listed(
            request, params, "objects", [("kind = {}", "payment_intent"), *_created(params)]
        )

    async def _list_refunds(self, request: Request, fields: Object) -> Answer:
        params = Params(fields, {*_LISTED, "created", "payment_intent", "charge"})
        intent = params.text("payment_intent")
        if intent:
            await self.store.get("payment_intent", intent)
        conditions = [
            ("kind = {}", "refund"),
            ("intent = {}", intent),
            ("body->>'charge' = {}", params.text("charge")),
        ]
        return await self._listed(request, params, "objects", [*conditions, *_created(params)])

    async def _list_events(self, request: Request, fields: Object) -> Answer:
        params = Params(fields, {*_LISTED, "created", "type", "types", "delivery_success"})
        types = params.texts("types") or ([type_] if (type_ := params.text("type")) else None)
        conditions = [("type = ANY({})", types), ("delivered = {}", params.flag("delivery_success"))]
        return await self._listed(request, params, "events", [*conditions, *_created(params)])

    async def _listed(
        self, request: Request, params: Params, table: str, conditions: list[tuple[str, object]]
    ) -> Answer:
        expand = {name.removeprefix("data.") for name in _expansions(params, "data.")}
        limit = params.integer("limit", 1, 100) or 10
        page = await self.store.page(table, limit, conditions, params.text("starting_after"))
        return Answer(200, await self._paged(request, "list", page, expand))

    async def _search(self, request: Request, fields: Object) -> Answer:
        params = Params(fields, {"query", "limit", "page", "expand"})
        conditions: list[tuple[str, object]] = [
            ("kind = {}", "payment_intent"),
            *_clauses(params.needed("query")),
        ]
        if self.search_lag:
            conditions.append(("written_at <= now() - {}::interval", timedelta(seconds=self.search_lag)))
        page = await self.store.page(
            "objects", params.integer("limit", 1, 100) or 10, conditions, params.text("page")
        )
        expand = {name.removeprefix("data.") for name in _expansions(params, "data.")}
        body = await self._paged(request, "search_result", page, expand)
        return Answer(200, {**body, "next_page": page.data[-1]["id"] if page.more else None})

    async def _paged(self, request: Request, kind: str, page: Page, expand: set[str]) -> Object:
        data = await _expanded(page.data, expand, self.store)
        return {"object": kind, "data": data, "has_more": page.more, "url": request.url.path}

    # -- trouble -------------------------------------------------------------------------------------------------------

    async def _count(self, _: Request, __: Object) -> Answer:
        return Answer(200, dict(await self.store.count()))

    async def _add_fault(self, _: Request, fields: Object) -> Answer:
        self.faults.add(Fault.read(fields))
        return Answer(200, {})

    async def _heal(self, _: Request, __: Object) -> Answer:
        self.faults.clear()
        return Answer(200, {})

    async def _behave(self, _: Request, fields: Object) -> Answer:
        """Take any of the fields of `Manners`, and `search_lag`."""
        try:
            self.search_lag = float(fields.pop("search_lag", self.search_lag))
            self.courier.manners = replace(self.courier.manners, **fields)
        except (TypeError, ValueError) as wrong:
            raise Refused(400, f"Give some of {sorted(asdict(Manners()))} and search_lag: {wrong}") from None
        return Answer(200, {**asdict(self.courier.manners), "search_lag": self.search_lag})

    async def _authenticate(self, request: Request, fields: Object) -> Answer:
        """Answer for the payer: `{"accepted": true}`."""
        async with self.store.transaction() as transaction:
            intent = await transaction.lock("payment_intent", request.path_params["id"])
            change = authenticate(intent, int(time.time()), accepted=fields.get("accepted", True) is True)
            await self._write(transaction, change, {"id": request.state.id, "idempotency_key": None})
        return Answer(200, change.answer)


def application(simulator: Simulator, **options: Any) -> Starlette:
    """Make the ASGI application."""
    return Starlette(routes=simulator.routes(), **options)


async def _fields(request: Request) -> Object:
    """Give the request's fields: Stripe's are form-encoded, ours are JSON."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > BODY_LIMIT:
            raise Refused(413, "The request is too large.")
    if request.url.path.startswith("/simulator"):
        try:
            fields: object = json.loads(body or b"{}")
        except ValueError:
            fields = None
        if not isinstance(fields, dict):
            raise Refused(400, "Send a JSON object.")
        return fields
    try:
        text = request.url.query if request.method == "GET" else body.decode()
        return nested(parse_qsl(text, keep_blank_values=True, strict_parsing=bool(text), errors="strict"))
    except ValueError:
        raise Refused(400, "Send form-encoded fields in UTF-8.") from None


def _fingerprint(request: Request, fields: Object) -> str:
    said = json.dumps([request.method, request.url.path, fields], sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()


def _resource(request: Request) -> str:
    return request.url.path.split("/")[2] if request.url.path.startswith("/v1/") else ""


def _expansions(params: Params, prefix: str = "") -> set[str]:
    names = set(params.texts("expand"))
    if wrong := names - {prefix + name for name in _EXPANDABLE}:
        raise Refused(400, f"This property cannot be expanded: {min(wrong)[:100]}", param="expand")
    return names


async def _expanded(bodies: list[Object], names: set[str], source: Store | Transaction) -> list[Object]:
    wanted = [{name: body[name] for name in names if isinstance(body.get(name), str)} for body in bodies]
    ids = [id_ for fields in wanted for id_ in fields.values()]
    found = await source.many(ids) if ids else {}
    return [
        body | {name: found[id_] for name, id_ in fields.items()}
        for body, fields in zip(bodies, wanted, strict=True)
    ]


def _created(params: Params) -> list[tuple[str, object]]:
    """Read `created=1` and `created[gte]=1`."""
    fields = {"gt": ">", "gte": ">=", "lt": "<", "lte": "<="}
    try:
        exact = params.integer("created", 0, 2**40)
    except Refused:
        bounds = Params(params.tree("created"), fields)
        return [(f"created {sign} {{}}", bounds.integer(name, 0, 2**40)) for name, sign in fields.items()]
    return [("created = {}", exact)]


def _clauses(query: str) -> list[tuple[str, object]]:
    conditions: list[tuple[str, object]] = []
    for clause in query.split(" AND "):
        if not (found := _CLAUSE.fullmatch(clause.strip())):
            message = "This simulator searches by metadata['key']:'value', status:'value' and currency:'value' with AND."
            raise Refused(400, message, param="query")
        if found["key"]:
            conditions.append(("metadata @> {}", {found["key"]: found["value"]}))
        else:
            conditions.append((f"body->>'{found['field']}' = {{}}", found["value"]))
    return conditions


async def _hold(request: Request, seconds: float) -> None:
    """Say nothing until the caller gives up."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    try:
        await asyncio.wait_for(gone(), seconds)
    except TimeoutError:
        _log.info("caller_waited", seconds=seconds, request=urlencode({"id": request.state.id}))
