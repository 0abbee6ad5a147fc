"""Who publishes what, who listens, which state, which read model: derived from the code, checked at start.

Discovery walks the packages `events`, `handlers`, `sagas` and `projections`; there is no list to maintain.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import TypeVar

import handlers
import projections
import sagas
from events import Message, type_of
from handlers import Worker
from infra.errors import WiringError
from infra.runtime.catalog.message_types import Contract, StateModel, contracts, modules, state_model
from infra.runtime.catalog.projection_wiring import FoldWiring, ProjectionWiring, snake, wire_projection
from infra.runtime.catalog.saga_wiring import SagaWiring, wire_saga
from infra.runtime.catalog.signatures import where
from infra.runtime.catalog.worker_wiring import DeciderWiring, EffectWiring, wire_effects, wire_worker
from projections import Projection
from sagas import Saga

__all__ = [
    "Catalog",
    "Contract",
    "DeciderWiring",
    "EffectWiring",
    "FoldWiring",
    "ProjectionWiring",
    "SagaWiring",
    "StateModel",
    "Wiring",
    "discover",
    "snake",
    "state_model",
]

K = TypeVar("K")

Wiring = DeciderWiring | EffectWiring | SagaWiring | ProjectionWiring


@dataclass(frozen=True, slots=True)
class Catalog:
    """Everything that the code declares."""

    contracts: dict[str, Contract]
    workers: dict[str, DeciderWiring]
    effects: dict[str, EffectWiring]
    sagas: dict[str, SagaWiring]
    projections: dict[str, ProjectionWiring]
    contexts: tuple[str, ...] = ()

    @property
    def consumers(self) -> dict[str, Wiring]:
        """Every consumer by its permanent name."""
        return {**self.workers, **self.effects, **self.sagas, **self.projections}

    @property
    def topics(self) -> tuple[str, ...]:
        """Every topic that the contracts need."""
        names = {contract.topic for contract in self.contracts.values()}
        names |= {f"{context}.inbound" for context in self.contexts}
        return tuple(sorted(names | {topic for wiring in self.consumers.values() for topic in wiring.topics}))

    def of(self, model: type[Message]) -> Contract:
        """Find the contract of a message class."""
        return self.contracts[type_of(model)]


@cache
def discover() -> Catalog:
    """Walk the packages and wire everything; raise `WiringError` naming the first culprit."""
    known = contracts()
    workers = _declared(handlers, Worker)
    deciders = [wire_worker(worker, known) for worker in workers]
    by_context = {wiring.name: wiring for wiring in deciders}
    effects = [
        wiring for worker in workers for wiring in wire_effects(worker, by_context[worker.context], known)
    ]
    flows = [wire_saga(saga, known) for saga in _declared(sagas, Saga)]
    models = [wire_projection(projection, known) for projection in _declared(projections, Projection)]
    catalog = Catalog(
        contracts=known,
        workers=_named(deciders),
        effects=_named(effects),
        sagas=_named(flows),
        projections=_named(models),
        contexts=tuple(sorted(by_context)),
    )
    _check_answerers(catalog)
    return catalog


def _declared(package: ModuleType, kind: type[K]) -> list[K]:
    """Find the instances of a vocabulary class that a package's modules hold; the same one may be imported around."""
    found: dict[int, K] = {}
    for module in modules(package):
        found |= {id(value): value for value in vars(module).values() if isinstance(value, kind)}
    return list(found.values())


W = TypeVar("W", DeciderWiring, EffectWiring, SagaWiring, ProjectionWiring)


def _named(wirings: list[W]) -> dict[str, W]:
    found: dict[str, W] = {}
    for wiring in wirings:
        if wiring.name in found:
            raise WiringError(
                f"the consumer {wiring.name!r} is declared twice; a consumer's name is its own for ever"
            )
        found[wiring.name] = wiring
    return found


def _check_answerers(catalog: Catalog) -> None:
    answered = {name for worker in catalog.workers.values() for name in worker.deciders}
    answered |= {name for effect in catalog.effects.values() for name in effect.consumes}
    for contract in catalog.contracts.values():
        if contract.kind != "command":
            continue
        answerers = [
            where(s.function)
            for worker in catalog.workers.values()
            for s in worker.deciders.get(contract.name, ())
        ] + [where(e.action.function) for e in catalog.effects.values() if contract.name in e.consumes]
        if len(answerers) > 1:
            raise WiringError(
                f"{contract.name} is answered twice, by {answerers[0]} and {answerers[1]}; a command has one answerer"
            )
        if not answerers:
            raise WiringError(f"{contract.name} is answered by nobody; a command has one answerer")
        if contract.public and any(contract.name in effect.consumes for effect in catalog.effects.values()):
            raise WiringError(
                f"{contract.name} is public, so a `def` decides on it; {answerers[0]} acts, and only on our own"
            )
