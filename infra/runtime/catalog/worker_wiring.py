"""How a worker is wired: what it answers, adopts, evolves and keeps, and what it does outside."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from events import type_of
from handlers import Aggregate, Local, Worker
from infra.errors import WiringError
from infra.runtime.catalog.message_types import Contract, StateModel, consumed, state_model
from infra.runtime.catalog.signatures import HeldBy, Of, Signature, ViewOf, key_field, read, where

Grouped = dict[str, tuple[Signature, ...]]


@dataclass(frozen=True, slots=True)
class DeciderWiring:
    """All `def` functions of one worker: one consumer."""

    name: str
    schema: str
    topics: tuple[str, ...]
    deciders: dict[str, tuple[Signature, ...]]
    adopters: dict[str, Signature]
    keepers: dict[str, tuple[Signature, ...]]
    evolvers: dict[str, Signature]
    aggregates: dict[str, StateModel]
    """The context's aggregates by their key field."""
    locals: dict[type[Local], StateModel]
    first_start: Literal["beginning", "end"] = "beginning"

    @property
    def listens(self) -> frozenset[str]:
        """The types it folds."""
        return frozenset(self.deciders) | frozenset(self.adopters) | frozenset(self.keepers)


@dataclass(frozen=True, slots=True)
class EffectWiring:
    """One `async def` handler: a consumer of its own."""

    name: str
    schema: str
    topics: tuple[str, ...]
    consumes: tuple[str, ...]
    action: Signature
    finder: Signature | None
    decider: DeciderWiring
    first_start: Literal["beginning", "end"] = "end"

    @property
    def listens(self) -> frozenset[str]:
        """The types it acts on."""
        return frozenset(self.consumes)


def wire_worker(worker: Worker, contracts: dict[str, Contract]) -> DeciderWiring:
    """Wire all `def` functions of a worker into one consumer."""
    reader = _Reader(worker.context, contracts)
    for evolver in worker.evolvers:
        reader.evolver(read(evolver, message=1, beside=0))
    for handler in worker.handlers:
        reader.handler(read(handler, may_act=True))
    for adopter in worker.adopters:
        reader.adopter(read(adopter))
    for keeper in worker.keepers:
        reader.keeper(read(keeper, message=1))
    wiring = reader.wiring()
    _check_contracts(wiring, contracts)
    return wiring


def wire_effects(
    worker: Worker, decider: DeciderWiring, contracts: dict[str, Contract]
) -> Iterator[EffectWiring]:
    """Wire each `async def` function of a worker as a consumer of its own."""
    for function in worker.handlers:
        signature = read(function, may_act=True)
        if not signature.acts:
            continue
        concerned = consumed(signature, contracts)
        _check_outputs(signature, worker.context, contracts)
        finder = worker.finders.get(function)
        yield EffectWiring(
            name=f"{worker.context}.{function.__name__}",
            schema=worker.context,
            topics=tuple(sorted({contract.topic for contract in concerned})),
            consumes=tuple(contract.name for contract in concerned),
            action=signature,
            finder=read(finder, may_act=True) if finder is not None else None,
            decider=decider,
        )


class _Reader:
    """Collects what one worker's functions say."""

    def __init__(self, context: str, contracts: dict[str, Contract]) -> None:
        self._context = context
        self._contracts = contracts
        self._topics: set[str] = set()
        self._deciders: Grouped = {}
        self._adopters: dict[str, Signature] = {}
        self._keepers: Grouped = {}
        self._evolvers: dict[str, Signature] = {}
        self._aggregates: dict[str, StateModel] = {}
        self._views: dict[type[Local], StateModel] = {}

    def wiring(self) -> DeciderWiring:
        topics = tuple(sorted(self._topics))
        return DeciderWiring(
            name=self._context,
            schema=self._context,
            topics=topics,
            deciders=self._deciders,
            adopters=self._adopters,
            keepers=self._keepers,
            evolvers=self._evolvers,
            aggregates=self._aggregates,
            locals=self._views,
        )

    def evolver(self, signature: Signature) -> None:
        place = where(signature.function)
        if len(signature.beside) != 1 or not issubclass(signature.beside[0], Aggregate):
            raise WiringError(f"{place}: its first parameter is the aggregate, its second the event")
        kind = signature.beside[0]
        self._know_aggregate(kind)
        for contract in consumed(signature, self._contracts):
            if contract.context != self._context:
                raise WiringError(
                    f"{place}: {contract.name} is not a fact of {self._context}; only its owner evolves it"
                )
            if contract.key != key_field(kind):
                raise WiringError(
                    f"{place}: {contract.name} is keyed by {contract.key!r}, {kind.__name__} is not"
                )
            if contract.name in self._evolvers:
                raise WiringError(f"{place}: {contract.name} is evolved twice")
            self._evolvers[contract.name] = signature

    def handler(self, signature: Signature) -> None:
        self._know_states(signature)
        if signature.acts:
            return
        _check_outputs(signature, self._context, self._contracts)
        for contract in consumed(signature, self._contracts):
            if contract.kind == "command" and contract.context != self._context:
                raise WiringError(
                    f"{where(signature.function)}: {contract.name} is answered by its own context's worker only"
                )
            self._deciders[contract.name] = (*self._deciders.get(contract.name, ()), signature)
            self._topics.add(contract.topic)
            if contract.public and contract.kind == "command":
                self._topics.add(f"{self._context}.inbound")

    def adopter(self, signature: Signature) -> None:
        self._know_states(signature)
        _check_outputs(signature, self._context, self._contracts)
        for contract in consumed(signature, self._contracts):
            if not contract.public or contract.kind == "command" or contract.context != self._context:
                raise WiringError(
                    f"{where(signature.function)}: {contract.name} is no public fact of {self._context}"
                )
            if contract.name in self._adopters:
                raise WiringError(f"{where(signature.function)}: {contract.name} is adopted twice")
            self._adopters[contract.name] = signature
            self._topics.add(f"{self._context}.inbound")

    def keeper(self, signature: Signature) -> None:
        need = next(iter(signature.needs.values()), None)
        if not isinstance(need, ViewOf):
            raise WiringError(
                f"{where(signature.function)}: its first parameter is the Local view, its second the event"
            )
        self._know_view(need.kind)
        for contract in consumed(signature, self._contracts):
            self._keepers[contract.name] = (*self._keepers.get(contract.name, ()), signature)
            self._topics.add(contract.topic)

    def _know_states(self, signature: Signature) -> None:
        for need in signature.needs.values():
            if isinstance(need, ViewOf):
                self._know_view(need.kind)
            elif isinstance(need, Of | HeldBy):
                self._know_aggregate(need.kind)

    def _know_aggregate(self, kind: type[Aggregate]) -> None:
        state = state_model(kind)
        if self._aggregates.setdefault(state.key, state).model is not kind:
            raise WiringError(f"{self._context}: two aggregates have the key field {state.key!r}")

    def _know_view(self, kind: type[Local]) -> None:
        self._views.setdefault(kind, state_model(kind))


def _check_outputs(signature: Signature, context: str, contracts: dict[str, Contract]) -> None:
    """What a function publishes is known, and its facts are its own context's."""
    for model in signature.publishes:
        contract = contracts.get(type_of(model))
        if contract is None:
            raise WiringError(
                f"{where(signature.function)}: publishes {model.__name__}, which is no message under events/"
            )
        if contract.kind != "command" and contract.context != context:
            raise WiringError(
                f"{where(signature.function)}: publishes {contract.name}, which belongs to {contract.context}"
            )


def _check_contracts(wiring: DeciderWiring, contracts: dict[str, Contract]) -> None:
    """Every fact of a context is folded, every refusal has its stream, every public fact is adopted."""
    for contract in contracts.values():
        if contract.context != wiring.name:
            continue
        if contract.kind == "event" and contract.name not in wiring.evolvers:
            raise WiringError(f"{contract.name}: no @worker.evolves folds it into an aggregate")
        if contract.kind == "refusal" and contract.key not in wiring.aggregates:
            raise WiringError(
                f"{contract.name}: no aggregate of {wiring.name} has the key field {contract.key!r}"
            )
        if contract.public and contract.kind != "command" and contract.name not in wiring.adopters:
            raise WiringError(f"{contract.name}: is public, but no @worker.adopts takes it in")
