"""Errors as RFC 9457 problem documents: a stable code, the field, the remedy, and never what a stranger should not know."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

from pydantic_core import to_json
from starlette.responses import Response

from infra.errors import Unacceptable

MEDIA_TYPE: Final = "application/problem+json"

_FIELD: Final = re.compile(r"([A-Za-z_][A-Za-z0-9_.-]*): ")

_STATUS: Final = {
    "not_utf8": 400,
    "not_json": 400,
    "too_deep": 400,
    "duplicate_field": 400,
    "not_an_object": 400,
    "cursor": 400,
    "token": 400,
    "idempotency_key": 400,
    "unknown_tenant": 403,
    "suspended_tenant": 403,
    "tenant_mismatch": 403,
    "too_large": 413,
    "content_type": 415,
}
"""Status by code; whatever is understood and still cannot be taken in is 422."""


class Problem(Exception):
    """Ends a request with a problem document."""

    def __init__(
        self, status: int, code: str, detail: str, *, headers: Mapping[str, str] | None = None, **more: Any
    ) -> None:
        """`code` is stable, `detail` is for a person, `more` are further members of the document."""
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.headers = dict(headers or {})
        self.more = more

    def response(self) -> Response:
        """Write the document."""
        body: dict[str, Any] = {
            "type": f"urn:triplane:problem:{self.code}",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            **self.more,
        }
        return Response(to_json(body), self.status, self.headers, MEDIA_TYPE)


def status_of(wrong: Unacceptable) -> int:
    """Give the status for what a message is refused for."""
    return _STATUS.get(wrong.reason, 422)


def error_of(wrong: Unacceptable, index: int | None = None) -> dict[str, Any]:
    """Give one member of `errors`; `index` counts the messages of a batch from 0."""
    field = _FIELD.match(wrong.detail)
    found: dict[str, Any] = {} if index is None else {"index": index}
    return found | {"code": wrong.reason, "field": field[1] if field else None, "detail": wrong.detail}


def refused(wrong: Unacceptable) -> Problem:
    """Refuse a request for one thing that is wrong with it."""
    return Problem(status_of(wrong), wrong.reason, wrong.detail, errors=[error_of(wrong)])


def refused_parameters(errors: Sequence[Mapping[str, Any]]) -> Problem:
    """Refuse a request for parameters that do not fit; `errors` as pydantic lists them, their values are not repeated."""
    listed = []
    for error in errors[:20]:
        field = ".".join(str(step) for step in error["loc"])
        detail = "unknown; leave it out" if error["type"] == "extra_forbidden" else str(error["msg"])
        listed.append({"code": "invalid_parameter", "field": field, "detail": f"{field}: {detail}"})
    return Problem(422, "invalid_parameter", "; ".join(str(it["detail"]) for it in listed), errors=listed)
