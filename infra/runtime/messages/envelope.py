"""CloudEvents 1.0 on Kafka: what a record says about the message in it, and how a message becomes a record."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from operator import itemgetter
from typing import Any, Final, NamedTuple, cast

from pydantic_core import to_json

from infra.errors import Unacceptable
from infra.kafka.record import Record
from infra.runtime.messages import strict_json
from infra.runtime.messages.ids import INTERNAL_SOURCE

MAX_HEADERS: Final = 64
MAX_HEADER_BYTES: Final = 8_192
MAX_ATTRIBUTE: Final = 255
TENANT: Final = re.compile(r"[a-z0-9-]{1,63}\Z")
TRACEPARENT: Final = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}\Z")
_SCHEMA: Final = re.compile(r"urn:triplane:([a-z_]+\.[A-Za-z0-9]+):([1-9][0-9]{0,5})\Z")
_STRUCTURED: Final = "application/cloudevents+json"
_JSON: Final = re.compile(r"application/(json|[a-z0-9.+-]*\+json)\s*(;.*)?\Z", re.IGNORECASE)
_REQUIRED: Final = ("specversion", "id", "type", "source", "tenantid")
_PRINTABLE: Final = re.compile(r"[^\x00-\x1f\x7f]+\Z")


class Envelope(NamedTuple):
    """The CloudEvents attributes of one message. `sequence` is its stream's version, `None` outside `.events`."""

    id: str
    type: str
    source: str
    tenant: str
    version: int
    time: datetime
    correlation: str
    causation: str | None = None
    sequence: int | None = None
    subject: str | None = None
    traceparent: str | None = None

    def texts(self) -> list[tuple[str, str]]:
        """Give the headers of binary mode as texts, in the order in which they are written."""
        found = [
            ("ce_specversion", "1.0"),
            ("ce_id", self.id),
            ("ce_type", self.type),
            ("ce_source", self.source),
            ("ce_time", self.time.isoformat()),
            ("ce_dataschema", f"urn:triplane:{self.type}:{self.version}"),
            ("ce_tenantid", self.tenant),
            ("ce_correlationid", self.correlation),
        ]
        if self.subject is not None:
            found.append(("ce_subject", self.subject))
        if self.causation is not None:
            found.append(("ce_causationid", self.causation))
        if self.sequence is not None:
            found.append(("ce_sequence", str(self.sequence)))
        if self.traceparent is not None:
            found.append(("traceparent", self.traceparent))
        found.append(("content-type", "application/json"))
        return found

    def headers(self) -> list[tuple[str, bytes]]:
        """Give the Kafka headers of binary mode."""
        return [(name, text.encode()) for name, text in self.texts()]


def open_record(record: Record) -> tuple[Envelope, bytes]:
    """Read a record's envelope and JSON body, in binary or structured mode; raise `Unacceptable` with the field."""
    if record.value is None:
        raise Unacceptable("tombstone", "the value is null; send the message's JSON as the value")
    if not record.value:
        raise Unacceptable("empty", "the value is empty; send the message's JSON as the value")
    inbound = record.inbound
    usual = _as_usual(record, inbound=inbound)
    if usual is not None:
        return usual, record.value
    headers = _headers(record)
    content_type = headers.get("content-type", "application/json")
    if content_type.lower().startswith(_STRUCTURED):
        if not inbound:
            raise Unacceptable("structured_inside", "structured mode is accepted on .inbound only")
        envelope, body = open_structured(record.value, record.at, inbound=inbound)
        _check_agreement(headers, envelope)
        return envelope, body
    if not _JSON.match(content_type):
        raise Unacceptable(
            "content_type", f"content-type {content_type!r} is not JSON; send application/json"
        )
    attributes = {name[3:]: text for name, text in headers.items() if name.startswith("ce_")}
    if "traceparent" in headers:
        attributes["traceparent"] = headers["traceparent"]
    return envelope_of(attributes, record.at, inbound=inbound), record.value


_ABSENT: Final[Any] = object()
_NEEDED: Final = ("ce_specversion", "ce_type", "ce_source", "ce_tenantid", "ce_id")
_WELCOME: Final = (
    "ce_dataschema",
    "content-type",
    "ce_time",
    "ce_correlationid",
    "ce_causationid",
    "ce_sequence",
    "traceparent",
)
_MAX_DIGITS: Final = 18


@lru_cache(maxsize=1024)
def _layout(names: tuple[str, ...]) -> Callable[[tuple[Any, ...]], tuple[Any, ...]] | None:
    """Give what picks the headers that we read, the needed first, from values that end in an absent one.

    `None` where anything is missing, stands twice or is not ours.
    """
    if not set(_NEEDED) <= set(names) <= {*_NEEDED, *_WELCOME} or len(set(names)) != len(names):
        return None
    return itemgetter(*(names.index(name) if name in names else -1 for name in (*_NEEDED, *_WELCOME)))


def _as_usual(record: Record, *, inbound: bool) -> Envelope | None:
    """Read headers as nearly everybody writes them, fast; whatever is unusual is left to the thorough way."""
    if not record.headers:
        return None
    names, values = zip(*record.headers, strict=True)
    pick = _layout(names)
    if pick is None:
        return None
    (
        specversion,
        kind,
        source,
        tenant,
        message_id,
        schema,
        content_type,
        time,
        correlation,
        causation,
        sequence,
        traceparent,
    ) = pick((*values, _ABSENT))
    if inbound and sequence is not _ABSENT:
        return None
    try:
        same = _same_for_many(inbound, specversion, kind, source, tenant, schema, content_type)
        own = _short(message_id)
        at = record.at if time is _ABSENT else datetime.fromisoformat(time.decode())
        if at.tzinfo is None:
            return None
        return Envelope(
            own,
            same[0],
            same[1],
            same[2],
            same[3],
            at,
            own if correlation is _ABSENT else _short(correlation),
            None if causation is _ABSENT else _short(causation),
            None if sequence is _ABSENT else _number(sequence),
            None,
            None if traceparent is _ABSENT else _trace(traceparent),
        )
    except (ValueError, TypeError, AttributeError, Unacceptable):
        return None


def _short(raw: bytes) -> str:
    text = raw.decode()
    if not (0 < len(text) <= MAX_ATTRIBUTE and text.isprintable()):
        raise ValueError(text)
    return text


def _number(raw: bytes) -> int:
    if not (raw.isdigit() and len(raw) <= _MAX_DIGITS):
        raise ValueError(raw)
    return int(raw)


def _trace(raw: bytes) -> str | None:
    text = _short(raw)
    return text if TRACEPARENT.match(text) else None


@lru_cache(maxsize=4096)
def _same_for_many(
    inbound: bool,  # noqa: FBT001 - the cache is quicker without names
    specversion: bytes,
    kind: bytes,
    source: bytes,
    tenant: bytes,
    schema: bytes,
    content_type: bytes,
) -> tuple[str, str, str, int]:
    """Check the attributes that repeat from record to record; give type, source, tenant and version."""
    attributes = {
        "specversion": specversion.decode(),
        "type": kind.decode(),
        "source": source.decode(),
        "tenantid": tenant.decode(),
        "id": "-",
    }
    if schema is not _ABSENT:
        attributes["dataschema"] = schema.decode()
    if content_type is not _ABSENT and content_type != b"application/json":
        raise Unacceptable("content_type", "not the usual one")
    envelope = envelope_of(attributes, datetime.fromtimestamp(0, UTC), inbound=inbound)
    return envelope.type, envelope.source, envelope.tenant, envelope.version


def _check_agreement(headers: dict[str, str], envelope: Envelope) -> None:
    """In structured mode the body says everything; a header that says otherwise may be a forgery or a mistake."""
    said = {
        "ce_id": envelope.id,
        "ce_type": envelope.type,
        "ce_source": envelope.source,
        "ce_tenantid": envelope.tenant,
    }
    for name, value in said.items():
        if headers.get(name, value) != value:
            raise Unacceptable(
                "header_mismatch", f"{name}: differs from the body's; say it in one place only"
            )


def open_structured(value: bytes, at: datetime, *, inbound: bool) -> tuple[Envelope, bytes]:
    """Read a structured-mode CloudEvent: one JSON object with the attributes and `data`."""
    return open_event(strict_json.parse(value), at, inbound=inbound)


def open_event(
    event: object, at: datetime, *, inbound: bool, tenant: str | None = None
) -> tuple[Envelope, bytes]:
    """Read a parsed structured-mode CloudEvent; `tenant` is that of one that names none."""
    if not isinstance(event, dict):
        raise Unacceptable("not_an_object", "a structured CloudEvent is a JSON object with the field 'data'")
    if "data" not in event:
        raise Unacceptable(
            "missing_field", "data: missing; put the message's JSON there (data_base64 is not read)"
        )
    attributes: dict[str, str] = {} if tenant is None else {"tenantid": tenant}
    for name, attribute in cast("dict[str, object]", event).items():
        if name == "data" or attribute is None:
            continue
        if name == "datacontenttype":
            if not isinstance(attribute, str) or not _JSON.match(attribute):
                raise Unacceptable("content_type", f"datacontenttype: {attribute!r} is not JSON")
            continue
        if isinstance(attribute, bool) or not isinstance(attribute, str | int):
            raise Unacceptable("invalid_attribute", f"{name}: a CloudEvents attribute is a string")
        attributes[name] = str(attribute)
    return envelope_of(attributes, at, inbound=inbound), to_json(event["data"])


def envelope_of(attributes: dict[str, str], at: datetime, *, inbound: bool) -> Envelope:
    """Check CloudEvents attributes (without the `ce_` prefix) and complete what may be missing."""
    for name in _REQUIRED:
        if name not in attributes:
            raise Unacceptable("missing_attribute", f"ce_{name}: missing; every message carries it")
    for name in ("id", "type", "source", "tenantid", "subject", "correlationid", "causationid"):
        text = attributes.get(name)
        if text is not None and not (text and len(text) <= MAX_ATTRIBUTE and _PRINTABLE.match(text)):
            raise Unacceptable(
                "invalid_attribute", f"ce_{name}: send 1 to {MAX_ATTRIBUTE} printable characters"
            )
    if attributes["specversion"] != "1.0":
        raise Unacceptable("specversion", f"ce_specversion: {attributes['specversion']!r}; only 1.0 is read")
    if not TENANT.match(attributes["tenantid"]):
        raise Unacceptable("tenant_id", "ce_tenantid: a tenant id is 1 to 63 of a-z, 0-9 and '-'")
    if inbound:
        _refuse_reserved(attributes)
    traceparent = attributes.get("traceparent")
    return Envelope(
        id=attributes["id"],
        type=attributes["type"],
        source=attributes["source"],
        tenant=attributes["tenantid"],
        version=_version(attributes),
        time=_time(attributes.get("time"), at),
        correlation=attributes.get("correlationid", attributes["id"]),
        causation=attributes.get("causationid"),
        sequence=_sequence(attributes.get("sequence")),
        subject=attributes.get("subject"),
        traceparent=traceparent if traceparent is not None and TRACEPARENT.match(traceparent) else None,
    )


def _headers(record: Record) -> dict[str, str]:
    if len(record.headers) > MAX_HEADERS:
        raise Unacceptable(
            "too_many_headers", f"{len(record.headers)} headers; at most {MAX_HEADERS} are read"
        )
    found: dict[str, str] = {}
    for name, raw in record.headers:
        ours = name.startswith("ce_") or name in {"content-type", "traceparent"}
        if raw is not None and len(raw) > MAX_HEADER_BYTES:
            raise Unacceptable(
                "header_too_large", f"{name[:80]}: {len(raw)} bytes; at most {MAX_HEADER_BYTES} are read"
            )
        if not ours:
            continue
        if name in found:
            raise Unacceptable("header_twice", f"{name}: stands twice; send it once")
        if raw is None:
            raise Unacceptable("header_null", f"{name}: is null; leave it out or send a text")
        try:
            found[name] = raw.decode("utf-8")
        except UnicodeDecodeError:
            raise Unacceptable("header_not_utf8", f"{name}: is not UTF-8") from None
    return found


def _refuse_reserved(attributes: dict[str, Any]) -> None:
    if "sequence" in attributes:
        raise Unacceptable("reserved", "ce_sequence: is given by the owner of a stream; leave it out")
    if attributes["source"].startswith(INTERNAL_SOURCE):
        raise Unacceptable(
            "reserved", f"ce_source: {INTERNAL_SOURCE}* is the platform's own; name your system instead"
        )


def _version(attributes: dict[str, str]) -> int:
    schema = attributes.get("dataschema")
    if schema is None:
        return 1
    found = _SCHEMA.match(schema)
    if found is None or found[1] != attributes["type"]:
        expected = f"urn:triplane:{attributes['type']}:<version>"
        raise Unacceptable(
            "dataschema", f"ce_dataschema: {schema[:200]!r} does not fit; send {expected} or leave it out"
        )
    return int(found[2])


def _time(text: str | None, at: datetime) -> datetime:
    if text is None:
        return at
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise Unacceptable("time", f"ce_time: {text[:80]!r} is no RFC 3339 time") from None
    if time.tzinfo is None:
        raise Unacceptable("time", f"ce_time: {text[:80]!r} has no zone; append Z or an offset")
    return time


def _sequence(text: str | None) -> int | None:
    if text is None:
        return None
    if not text.isascii() or not text.isdigit():
        raise Unacceptable("sequence", f"ce_sequence: {text[:80]!r} is no number")
    return int(text)
