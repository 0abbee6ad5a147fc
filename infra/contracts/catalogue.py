"""Everything that the code declares, as JSON values: messages, who publishes and who listens, sagas, read models."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from pydantic.json_schema import models_json_schema

from events import Message
from events.payments import CheckPayment, CheckRefund
from events.sagas import SagaAdvanced
from infra.runtime.asking.questions import Question
from infra.runtime.catalog import Catalog, Contract, SagaWiring
from infra.runtime.catalog.signatures import Signature
from sagas import Ended

UPSTREAM = "upstream"
OPERATORS = "triplane (operators)"
WEBHOOKS = "webhooks"

_OF_WEBHOOKS = frozenset(f"{it.__module__.split('.')[1]}.{it.__name__}" for it in (CheckPayment, CheckRefund))
_OF_SAGAS = f"sagas.{SagaAdvanced.__name__}"


def publishers(catalog: Catalog) -> dict[str, list[str]]:
    """Name who publishes each message: contexts, effects, sagas, upstream, webhooks, operators."""
    found: dict[str, set[str]] = {name: set() for name in catalog.contracts}

    def add(publisher: str, signatures: Iterable[Signature]) -> None:
        for signature in signatures:
            for model in signature.publishes:
                found[catalog.of(model).name].add(publisher)

    for worker in catalog.workers.values():
        add(worker.name, (signature for group in worker.deciders.values() for signature in group))
        add(worker.name, worker.adopters.values())
    for effect in catalog.effects.values():
        add(effect.name, [effect.action])
    for flow in catalog.sagas.values():
        add(flow.name, _steps(flow))
        found[_OF_SAGAS].add(flow.name)
    for name, contract in catalog.contracts.items():
        found[name] |= set(_from_outside(contract))
    return {name: sorted(by) for name, by in found.items()}


def _from_outside(contract: Contract) -> Iterator[str]:
    if contract.public:
        yield UPSTREAM
    if contract.name in _OF_WEBHOOKS:
        yield WEBHOOKS
    if contract.context == "operations":
        yield OPERATORS


def _steps(flow: SagaWiring) -> Iterator[Signature]:
    yield from flow.starters.values()
    yield from flow.moves.values()
    yield from flow.lates.values()


def listeners(catalog: Catalog) -> dict[str, list[str]]:
    """Name the consumers that each message concerns."""
    return {
        name: sorted(consumer for consumer, wiring in catalog.consumers.items() if name in wiring.listens)
        for name in catalog.contracts
    }


def schemas(
    models: Iterable[type[Message]], template: str
) -> tuple[dict[type[Message], dict[str, Any]], dict[str, Any]]:
    """Give a JSON Schema reference for each model, and the definitions that they refer to by `template`."""
    ordered = list(models)
    references, definitions = models_json_schema(
        [(model, "validation") for model in ordered], ref_template=template
    )
    return {model: references[model, "validation"] for model in ordered}, definitions["$defs"]


def catalogue(catalog: Catalog) -> dict[str, Any]:
    """Give the whole catalogue."""
    by, to = publishers(catalog), listeners(catalog)
    return {
        "messages": [_message(it, by[it.name], to[it.name]) for it in catalog.contracts.values()],
        "consumers": [
            {
                "name": name,
                "schema": wiring.schema,
                "topics": list(wiring.topics),
                "listens": sorted(wiring.listens),
                "first_start": wiring.first_start,
            }
            for name, wiring in sorted(catalog.consumers.items())
        ],
        "sagas": [_saga(catalog, it) for it in catalog.sagas.values()],
        "read_models": [
            {
                "name": it.projection.name,
                "views": [
                    {"view": f"read.{view}", "meaning": _words(row.__doc__)} for row, view in it.rows.items()
                ],
                "folds": sorted(it.listens),
                "queries": [
                    _query(Question(it, name, query, row)) for name, (query, row) in it.queries.items()
                ],
            }
            for it in catalog.projections.values()
        ],
    }


def _message(contract: Contract, by: list[str], to: list[str]) -> dict[str, Any]:
    return {
        "type": contract.name,
        "kind": contract.kind,
        "meaning": _words(contract.model.__doc__),
        "public": contract.public,
        "topic": contract.topic,
        "inbound": f"{contract.context}.inbound" if contract.public else None,
        "key": contract.key,
        "version": contract.current,
        "personal": list(contract.personal),
        "published_by": by,
        "listened_to_by": to,
        "schemas": {
            str(version): {**model.model_json_schema(), "$id": f"urn:triplane:{contract.name}:{version}"}
            for version, model in sorted(contract.versions.items())
        },
    }


def _saga(catalog: Catalog, wiring: SagaWiring) -> dict[str, Any]:
    def sent(signature: Signature) -> list[str]:
        return sorted(catalog.of(model).name for model in signature.publishes)

    return {
        "name": wiring.saga.name,
        "starts": [
            {"on": name, "sends": sent(signature)} for name, signature in sorted(wiring.starters.items())
        ],
        "states": [
            {
                "name": name,
                "meaning": _words(state.__doc__),
                "final": issubclass(state, Ended),
                "within_seconds": None if state.within is None else state.within.total_seconds(),
                "answers": {
                    event: sent(signature)
                    for (of, event), signature in sorted(wiring.moves.items(), key=_by_event)
                    if of is state
                },
                "late": sent(wiring.lates[state]) if state in wiring.lates else None,
            }
            for name, state in sorted(wiring.states.items())
        ],
    }


def _by_event(move: tuple[tuple[type, str], Signature]) -> str:
    return move[0][1]


def _query(question: Question) -> dict[str, Any]:
    return {
        "name": question.name,
        "path": f"/read/{question.model.projection.name}/{question.name}",
        "meaning": _words(question.query.__doc__),
        "parameters": question.query.model_json_schema().get("properties", {}),
        "required": sorted(
            name for name, field in question.query.model_fields.items() if field.is_required()
        ),
        "order": [f"-{name}" if descending else name for name, descending in question.order],
    }


def _words(text: str | None) -> str:
    return " ".join((text or "").split())
