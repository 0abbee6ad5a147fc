"""AsyncAPI 3 of every topic: what upstream may send, what the platform publishes, and who inside listens to it.

Built from the catalogue and pydantic's schemas. FastStream's generator was tried and left: it gives each publisher a
channel of its own with one message, has no schema for headers or keys, and invents a correlation header.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

from events import Message
from infra.contracts.catalogue import schemas
from infra.runtime.catalog import Catalog, Contract

_HEADERS: Final = "CloudEventHeaders"
_REF: Final = "#/components/schemas/"

_TEXT: Final = {"type": "string", "minLength": 1, "maxLength": 255}

HEADERS: Final[dict[str, Any]] = {
    "type": "object",
    "description": "CloudEvents 1.0 in binary mode; on .inbound structured mode (application/cloudevents+json) is read, too.",
    "required": ["ce_specversion", "ce_id", "ce_type", "ce_source", "ce_tenantid"],
    "properties": {
        "ce_specversion": {"const": "1.0"},
        "ce_id": {
            **_TEXT,
            "description": "With tenant and source it names the message: the same again is a duplicate.",
        },
        "ce_type": _TEXT,
        "ce_source": {
            **_TEXT,
            "description": "Who sends it. What begins with 'triplane/' is refused from outside.",
        },
        "ce_tenantid": {"type": "string", "pattern": "^[a-z0-9-]{1,63}$"},
        "ce_time": {
            "type": "string",
            "format": "date-time",
            "description": "Business time; else when the broker got it.",
        },
        "ce_subject": _TEXT,
        "ce_dataschema": {"type": "string", "description": "Names the version; without it, version 1."},
        "ce_correlationid": {**_TEXT, "description": "Repeated by everything that follows from the message."},
        "ce_causationid": {**_TEXT, "description": "The id of the message that led to this one."},
        "ce_sequence": {
            "type": "string",
            "pattern": "^[0-9]+$",
            "description": "Version of the stream; never on .inbound.",
        },
        "traceparent": {"type": "string"},
        "content-type": {"type": "string", "default": "application/json"},
    },
}


def asyncapi(catalog: Catalog, bootstrap: str | None = None) -> dict[str, Any]:
    """Give the document; `bootstrap` is where the broker is reached."""
    models = {
        (contract.name, number): model
        for contract in catalog.contracts.values()
        for number, model in contract.versions.items()
    }
    payloads, definitions = schemas(models.values(), _REF + "{model}")
    topics = {topic: _on(catalog, topic) for topic in catalog.topics}
    servers: dict[str, Any] = (
        {"kafka": {"host": bootstrap, "protocol": "kafka", "description": "Any Kafka client."}}
        if bootstrap
        else {}
    )
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Triplane",
            "version": _version(),
            "description": "Events and commands of the platform. Send to <context>.inbound; read <context>.events.",
        },
        "defaultContentType": "application/json",
        "servers": servers,
        "channels": {topic: _channel(topic, found) for topic, found in topics.items()},
        "operations": _operations(catalog, topics),
        "components": {
            "schemas": {**definitions, _HEADERS: HEADERS},
            "messages": {
                _id(contract, number): _message(contract, number, payloads[models[contract.name, number]])
                for contract in catalog.contracts.values()
                for number in sorted(contract.versions)
            },
        },
    }


def _on(catalog: Catalog, topic: str) -> list[tuple[Contract, int]]:
    """Give what may stand on a topic, in every version that is read."""
    inbound = topic.endswith(".inbound")
    return [
        (contract, number)
        for contract in catalog.contracts.values()
        for number in sorted(contract.versions)
        if (
            contract.public and topic == f"{contract.context}.inbound" if inbound else topic == contract.topic
        )
    ]


def _id(contract: Contract, number: int) -> str:
    return f"{contract.name}.v{number}"


def _channel(topic: str, found: list[tuple[Contract, int]]) -> dict[str, Any]:
    meaning = {
        "inbound": "From upstream: any client, any partition; what does not fit its contract is parked.",
        "commands": "Between the platform's own parts.",
        "events": "Facts, in order within each key, for ever.",
    }[topic.rpartition(".")[2]]
    return {
        "address": topic,
        "description": meaning,
        "messages": {_id(*it): {"$ref": f"#/components/messages/{_id(*it)}"} for it in found},
        "bindings": {"kafka": {"topic": topic, "bindingVersion": "0.5.0"}},
    }


def _operations(catalog: Catalog, topics: dict[str, list[tuple[Contract, int]]]) -> dict[str, Any]:
    operations: dict[str, Any] = {}
    for topic in topics:
        if topic.endswith(".inbound"):
            operations[f"{topic}.receive"] = {
                "action": "receive",
                "channel": {"$ref": f"#/channels/{topic}"},
                "summary": "Upstream sends here.",
            }
        else:
            operations[f"{topic}.send"] = {
                "action": "send",
                "channel": {"$ref": f"#/channels/{topic}"},
                "summary": "The platform publishes here.",
            }
    for name, wiring in sorted(catalog.consumers.items()):
        for topic in wiring.topics:
            heard = [it for it in topics[topic] if it[0].name in wiring.listens]
            operations[f"{name}.listens.{topic}"] = {
                "action": "receive",
                "channel": {"$ref": f"#/channels/{topic}"},
                "summary": f"{name} listens.",
                "messages": [{"$ref": f"#/channels/{topic}/messages/{_id(*it)}"} for it in heard],
            }
    return operations


def _message(contract: Contract, number: int, payload: dict[str, Any]) -> dict[str, Any]:
    model: type[Message] = contract.versions[number]
    return {
        "name": contract.name,
        "title": f"{contract.name}, version {number}",
        "summary": " ".join((model.__doc__ or "").split()),
        "contentType": "application/json",
        "headers": {
            "allOf": [
                {"$ref": _REF + _HEADERS},
                {
                    "type": "object",
                    "properties": {
                        "ce_type": {"const": contract.name},
                        "ce_dataschema": {"const": f"urn:triplane:{contract.name}:{number}"},
                    },
                    # Without a dataschema it is version 1, so every other version names itself.
                    "required": ["ce_dataschema"] if number > 1 else [],
                },
            ]
        },
        "payload": payload,
        "correlationId": {"location": "$message.header#/ce_correlationid"},
        "bindings": {
            "kafka": {
                "key": {
                    "type": "string",
                    "description": f"The body's {contract.key}, as text; on .inbound it may be absent.",
                },
                "bindingVersion": "0.5.0",
            }
        },
        "tags": [{"name": contract.kind}, *([{"name": "public"}] if contract.public else [])],
    }


def _version() -> str:
    try:
        return version("triplane")
    except PackageNotFoundError:
        return "0"
