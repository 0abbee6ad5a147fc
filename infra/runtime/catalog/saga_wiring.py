"""How a saga is wired: every state answers every event, or the platform does not start."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from events import Event, type_of
from infra.errors import WiringError
from infra.runtime.catalog.message_types import Contract
from infra.runtime.catalog.signatures import Function, Signature, read, where
from sagas import Saga, State


@dataclass(frozen=True, slots=True)
class SagaWiring:
    """One saga: a consumer of its own."""

    name: str
    schema: str
    topics: tuple[str, ...]
    saga: Saga
    correlation: dict[str, str]
    """Event type -> the field that names the instance."""
    starters: dict[str, Signature]
    moves: dict[tuple[type[State], str], Signature]
    lates: dict[type[State], Signature]
    states: dict[str, type[State]]
    past: dict[str, type[State]]
    """Superseded states, by name: flows that are in them are upcast when they are read."""
    first_start: Literal["beginning", "end"] = "end"

    @property
    def listens(self) -> frozenset[str]:
        """The events it answers."""
        return frozenset(self.correlation)


def wire_saga(saga: Saga, contracts: dict[str, Contract]) -> SagaWiring:
    """Wire a saga as a consumer of its own."""
    reader = _Reader(saga, contracts)
    for starter in saga.starters:
        reader.starter(read(starter))
    for move in saga.moves:
        reader.move(read(move, message=1, beside=0))
    for late in saga.deadlines:
        reader.late(read(late))
    return reader.wiring()


class _Reader:
    """Collects what one saga's functions say."""

    def __init__(self, saga: Saga, contracts: dict[str, Contract]) -> None:
        self._saga = saga
        self._contracts = contracts
        self._correlation: dict[str, str] = {}
        self._starters: dict[str, Signature] = {}
        self._moves: dict[tuple[type[State], str], Signature] = {}
        self._lates: dict[type[State], Signature] = {}
        self._states: dict[str, type[State]] = {}

    def wiring(self) -> SagaWiring:
        self._check_complete()
        topics = tuple(sorted({self._contracts[name].topic for name in self._correlation}))
        return SagaWiring(
            name=f"sagas.{self._saga.name}",
            schema="sagas",
            topics=topics,
            saga=self._saga,
            correlation=self._correlation,
            starters=self._starters,
            moves=self._moves,
            lates=self._lates,
            states=self._states,
            past={state.__name__: state for state in self._saga.past},
        )

    def starter(self, signature: Signature) -> None:
        self._check_commands(signature)
        for name in self._listen(signature):
            if name in self._starters:
                raise WiringError(f"{where(signature.function)}: {name} starts {self._saga.name} twice")
            self._starters[name] = signature

    def move(self, signature: Signature) -> None:
        self._check_commands(signature)
        for name in self._listen(signature):
            for state in self._know_states(signature.function, signature.beside):
                if (state, name) in self._moves:
                    raise WiringError(f"{where(signature.function)}: {state.__name__} answers {name} twice")
                self._moves[state, name] = signature

    def late(self, signature: Signature) -> None:
        self._check_commands(signature)
        for state in self._know_states(signature.function, signature.messages):
            if state.within is None:
                raise WiringError(
                    f"{where(signature.function)}: {state.__name__} has no `within`, so it is never late"
                )
            self._lates[state] = signature

    def _listen(self, signature: Signature) -> list[str]:
        names = []
        for model in signature.messages:
            if not issubclass(model, Event) or type_of(model) not in self._contracts:
                raise WiringError(f"{where(signature.function)}: {model.__name__} is no fact under events/")
            by = self._saga.correlations.get(model, self._saga.by)
            if by not in model.model_fields:
                raise WiringError(
                    f"saga {self._saga.name}: {model.__name__} has no field {by!r}; name one with saga.correlates"
                )
            self._correlation[type_of(model)] = by
            names.append(type_of(model))
        return names

    def _know_states(self, function: Function, kinds: tuple[type[Any], ...]) -> tuple[type[State], ...]:
        for kind in kinds:
            if not issubclass(kind, State):
                raise WiringError(f"{where(function)}: its first parameter is the state")
            if self._states.setdefault(kind.__name__, kind) is not kind:
                raise WiringError(
                    f"{where(function)}: two states of {self._saga.name} are named {kind.__name__}"
                )
        return kinds

    def _check_commands(self, signature: Signature) -> None:
        for model in signature.publishes:
            contract = self._contracts.get(type_of(model))
            if contract is None or contract.kind != "command":
                raise WiringError(
                    f"saga {self._saga.name}: {where(signature.function)} sends {model.__name__}, which is no command"
                )

    def _check_complete(self) -> None:
        for state in self._states.values():
            for name in self._correlation:
                if (state, name) not in self._moves:
                    raise WiringError(
                        f"saga {self._saga.name}: the state {state.__name__} has no move for {name}"
                    )
            if state.within is not None and state not in self._lates:
                raise WiringError(
                    f"saga {self._saga.name}: {state.__name__} has a deadline, but no @saga.late answers it"
                )
