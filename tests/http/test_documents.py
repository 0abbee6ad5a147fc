"""The documents are derived from the code, complete, and refer to nothing that is not in them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from infra.contracts.asyncapi import asyncapi
from infra.contracts.catalogue import catalogue
from infra.contracts.event_map import event_map
from infra.http.app import create_app
from infra.http.documents import OPEN
from infra.runtime.catalog import discover
from tests.http.running import Running, plain


def references(document: Any) -> Iterator[str]:
    """Walk every `$ref`."""
    if isinstance(document, dict):
        for name, value in document.items():
            if name == "$ref" and isinstance(value, str):
                yield value
            else:
                yield from references(value)
    elif isinstance(document, list):
        for value in document:
            yield from references(value)


def resolved(document: dict[str, Any], reference: str) -> Any:
    """Follow one within its document."""
    here: Any = document
    for step in reference.removeprefix("#/").split("/"):
        here = here[step.replace("~1", "/").replace("~0", "~")]
    return here


@pytest.fixture(scope="module")
def openapi(api: Running) -> dict[str, Any]:
    document: dict[str, Any] = plain("GET", f"{api.base}/openapi.json").json()
    return document


@pytest.fixture(scope="module")
def channels(api: Running) -> dict[str, Any]:
    document: dict[str, Any] = plain("GET", f"{api.base}/asyncapi.json").json()
    return document


def test_every_reference_is_there(openapi: dict[str, Any], channels: dict[str, Any]) -> None:
    for document in (openapi, channels):
        found = set(references(document))
        assert found
        for reference in found:
            assert resolved(document, reference) is not None


def test_every_public_command_and_query_has_a_typed_route(openapi: dict[str, Any]) -> None:
    catalog = discover()
    for contract in catalog.contracts.values():
        context, _, name = contract.name.partition(".")
        path = openapi["paths"].get(f"/commands/{context}/{name}")
        if contract.kind != "command" or not contract.public:
            assert path is None
            continue
        schema = path["post"]["requestBody"]["content"]["application/json"]["schema"]
        assert set(contract.model.model_fields) == set(resolved(openapi, schema["$ref"])["properties"])
        assert any(it["name"] == "Idempotency-Key" and it["required"] for it in path["post"]["parameters"])
    for wiring in catalog.projections.values():
        for name, (query, row) in wiring.queries.items():
            operation = openapi["paths"][f"/read/{wiring.projection.name}/{name}"]["get"]
            parameters = {it["name"]: it for it in operation["parameters"]}
            assert set(query.model_fields) | {"limit", "cursor", "token", "at", "wait"} == set(parameters)
            for field, it in query.model_fields.items():
                assert parameters[field]["required"] == it.is_required()
            page = resolved(
                openapi, operation["responses"]["200"]["content"]["application/json"]["schema"]["$ref"]
            )
            item = resolved(openapi, page["properties"]["items"]["items"]["$ref"])
            assert set(row.model_fields) == set(item["properties"])


def test_only_the_open_routes_need_no_token(openapi: dict[str, Any]) -> None:
    assert openapi["security"] == [{"token": []}]
    for path, item in openapi["paths"].items():
        for operation in item.values():
            assert (operation.get("security") == []) == (path in OPEN), path


def test_channels_hold_what_may_stand_on_them(channels: dict[str, Any]) -> None:
    catalog = discover()
    assert channels["asyncapi"] == "3.0.0"
    assert set(channels["channels"]) == set(catalog.topics)
    for topic, channel in channels["channels"].items():
        names = {message.rpartition(".v")[0] for message in channel["messages"]}
        if topic.endswith(".inbound"):
            expected = {
                it.name for it in catalog.contracts.values() if it.public and f"{it.context}.inbound" == topic
            }
        else:
            expected = {it.name for it in catalog.contracts.values() if it.topic == topic}
        assert names == expected


def test_every_version_is_described_with_headers_key_and_payload(channels: dict[str, Any]) -> None:
    messages = channels["components"]["messages"]
    for contract in discover().contracts.values():
        for version in contract.versions:
            message = messages[f"{contract.name}.v{version}"]
            _, own = message["headers"]["allOf"]
            assert own["properties"]["ce_dataschema"]["const"] == f"urn:triplane:{contract.name}:{version}"
            assert contract.key in message["bindings"]["kafka"]["key"]["description"]
            assert set(resolved(channels, message["payload"]["$ref"])["properties"]) == set(
                contract.versions[version].model_fields
            )
    headers = channels["components"]["schemas"]["CloudEventHeaders"]
    assert headers["required"] == ["ce_specversion", "ce_id", "ce_type", "ce_source", "ce_tenantid"]


def test_who_listens_is_told(channels: dict[str, Any]) -> None:
    operation = channels["operations"]["projections.customer_spend.listens.payments.events"]
    assert {"$ref": "#/channels/payments.events/messages/payments.PaymentCompleted.v1"} in operation[
        "messages"
    ]
    for operation in channels["operations"].values():
        assert {it["$ref"] for it in operation.get("messages", [])} <= {
            f"{operation['channel']['$ref']}/messages/{name}"
            for name in resolved(channels, operation["channel"]["$ref"])["messages"]
        }


def test_the_catalogue_says_who_publishes_and_who_listens() -> None:
    document = catalogue(discover())
    messages = {it["type"]: it for it in document["messages"]}
    paid = messages["payments.PaymentCompleted"]
    assert paid["published_by"] == ["payments", "upstream"]
    assert {"projections.customer_spend", "sagas.activation", "payments"} <= set(paid["listened_to_by"])
    assert messages["payments.CheckPayment"]["published_by"] == ["webhooks"]
    assert messages["payments.RecordCapture"]["published_by"] != []
    assert set(messages["customers.RecordConversation"]["schemas"]) == {"1", "2"}
    unpublished = [name for name, it in messages.items() if not it["published_by"] and not it["public"]]
    assert all(name.startswith("operations.") for name in unpublished), unpublished
    (activation,) = (it for it in document["sagas"] if it["name"] == "activation")
    assert any(state["within_seconds"] for state in activation["states"])
    assert all(
        set(state["answers"]) == set(activation["states"][0]["answers"]) for state in activation["states"]
    )
    assert {it["path"] for model in document["read_models"] for it in model["queries"]} >= {
        "/read/customer_spend/top"
    }


def test_the_map_names_every_part_once() -> None:
    lines = event_map(discover()).splitlines()
    assert lines[0] == "flowchart LR"
    assert len(lines) == len(set(lines))
    catalog = discover()
    for name in (*catalog.contexts, *(it.projection.name for it in catalog.projections.values())):
        assert sum(name in line and "--" not in line for line in lines) == 1


def test_asyncapi_needs_no_running_platform() -> None:
    assert asyncapi(discover())["servers"] == {}


def test_a_parameter_may_not_take_the_name_of_one_of_ours(api: Running) -> None:
    from infra.errors import WiringError
    from infra.http.reads import parameters_of
    from infra.runtime.asking.questions import Question
    from projections import Query
    from projections.customer_spend import Spend

    class Clashing(Query[Spend]):
        """Asks badly."""

        limit: int

    wiring = discover().projections["projections.customer_spend"]
    with pytest.raises(WiringError, match="'limit' is taken"):
        parameters_of(Question(wiring, "clashing", Clashing, Spend))
    assert create_app(api.settings, discover()).routes
