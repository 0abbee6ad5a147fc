"""The vocabulary of workers: what one context decides (`def`) and what it does outside (`async def`).

    worker = Worker("payments")

    class Payment(Aggregate):
        payment_id: Key[PaymentId]
        captured: int = 0

    @worker.evolves
    def captured(payment: Payment, event: PaymentCompleted) -> Payment: ...

    @worker.on
    def refund(asked: RequestRefund, payment: Payment) -> RefundRequested | RefundRefused: ...

    @worker.on
    async def refund_at_provider(event: RefundRequested, provider: PaymentProvider) -> RefundCompleted | RefundFailed: ...

The signature is the wiring. The first parameter is what is consumed; further ones are injected by their type:

- an `Aggregate` of this context: the one that the message's field of the same name as its `Key` names, or another by
  `Annotated[Person, By("person_id")]`; with `| None` it is `None` where the field is;
- `Annotated[Customer | None, Holder("email")]`: whoever holds that claimed value, or `None`;
- a `Local`: this context's own fold of other contexts' facts, read-only, found like an aggregate;
- `now: datetime`: when the message reached the broker (UTC); `new_id: NewId`: fresh ids, the same on every retry;
- `meta: Metadata`: tenant, id, source and correlation of the message;
- in an `async def` only: `key: IdempotencyKey`, and ports, each a `Protocol` declared beside the handler that needs it.

The return type is what is published. `def` functions are pure: no I/O, no clock, no randomness.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, NewType, TypeVar

from events import Folded, Metadata, NewId

__all__ = [
    "Aggregate",
    "By",
    "Holder",
    "IdempotencyKey",
    "Local",
    "Metadata",
    "NewId",
    "OutcomeUnknown",
    "Unavailable",
    "Worker",
]

Decider = TypeVar("Decider", bound=Callable[..., Any])
Evolver = TypeVar("Evolver", bound=Callable[..., "Aggregate"])
Keeper = TypeVar("Keeper", bound=Callable[..., "Local"])
Finder = TypeVar("Finder", bound=Callable[..., Awaitable[Any]])

IdempotencyKey = NewType("IdempotencyKey", str)
"""The same for every try of one effect: hand it to the outside, so that a repeated call changes nothing."""


class Aggregate(Folded):
    """The state that one stream of a context's events folds into. Every field but the `Key` has a default.

    A field marked `Claim` is unique within the tenant: the engine takes and releases the claim as the field changes.
    """


class Local(Folded):
    """A context's own, eventually consistent view of other contexts' facts. Every field but the `Key` has a default."""


@dataclass(frozen=True, slots=True)
class By:
    """Names the message's field that says which aggregate or local view is meant."""

    field: str


@dataclass(frozen=True, slots=True)
class Holder:
    """Names the message's field whose value is claimed, and the aggregate's field that claims it (the same by default)."""

    field: str
    claim: str | None = None


class OutcomeUnknown(Exception):
    """The outside was called and its answer is lost: the effect may have happened. It is looked up before any retry."""


class Unavailable(Exception):
    """The outside cannot be used now and nothing was done there: the same call is tried again later."""


class Worker:
    """One context's functions. Its name is permanent: it is the consumer's group, inbox scope and schema."""

    def __init__(self, context: str) -> None:
        """Make the worker of `context`; the module under `handlers` has the same name."""
        self.context = context
        self.handlers: list[Callable[..., Any]] = []
        self.adopters: list[Callable[..., Any]] = []
        self.evolvers: list[Callable[..., Aggregate]] = []
        self.keepers: list[Callable[..., Local]] = []
        self.finders: dict[Callable[..., Any], Callable[..., Awaitable[Any]]] = {}

    def on(self, function: Decider) -> Decider:
        """Decide on a command or a fact (`def`), or act outside because of a fact (`async def`).

        An `async def` is a consumer of its own, named `<context>.<function>`. What it returns is folded back under the
        aggregate's lock. It may raise `Unavailable` or `OutcomeUnknown`; any other error counts as unknown, too.
        """
        self.handlers.append(function)
        return function

    def adopts(self, function: Decider) -> Decider:
        """Take in a public fact from `<context>.inbound`: return it to make it ours, a refusal, or `None` if known."""
        self.adopters.append(function)
        return function

    def evolves(self, function: Evolver) -> Evolver:
        """Fold one of the context's own facts into its aggregate: `(aggregate, event) -> aggregate`, for every status."""
        self.evolvers.append(function)
        return function

    def keeps(self, function: Keeper) -> Keeper:
        """Fold another context's fact into a local view: `(view, event) -> view`."""
        self.keepers.append(function)
        return function

    def finds(self, action: Callable[..., Any]) -> Callable[[Finder], Finder]:
        """Look up the outcome of `action` when it is not known whether it happened.

        The function takes what `action` takes; it returns the outcome, or `None` when the effect is known not to have
        happened (it is then tried), or raises `OutcomeUnknown`.
        """

        def register(function: Finder) -> Finder:
            self.finders[action] = function
            return function

        return register
