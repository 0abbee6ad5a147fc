"""The grammar of every contract: what a message is, and the few types that all contracts share.

One module per context (`events.payments`, `events.identity`, ...) holds that context's facts and commands. A class
here is a contract on the wire: its name and version are permanent, and a change that breaks a reader is a new version.

    class PaymentCompleted(Event, public=True):
        \"\"\"The money is captured, and ours unless refunded.\"\"\"
        payment_id: Key[PaymentId]
        amount: Money

Facts are named in the past tense, commands in the imperative. Nothing in this package does anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Annotated, Any, ClassVar, NewType, Protocol, Self, TypeVar, Union
from uuid import UUID

import phonenumbers
import pycountry
from email_validator import EmailNotValidError, validate_email
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
)
from pydantic_core import CoreSchema, core_schema

__all__ = [
    "Claim",
    "Command",
    "Currency",
    "CustomerId",
    "EmailText",
    "Erased",
    "Event",
    "Folded",
    "Instant",
    "Key",
    "Message",
    "Metadata",
    "Money",
    "NewId",
    "Past",
    "PersonId",
    "Personal",
    "PhoneText",
    "ProductId",
    "Refusal",
    "ShortText",
    "Subject",
    "erased",
]

T = TypeVar("T")


class KeyMark:
    """Marks the field whose value orders a message: same key, same partition, same stream."""


class SubjectMark:
    """Marks the field that names the person whose key encrypts the message's `Personal` fields."""


class PersonalMark:
    """Marks a field that leaves a process only encrypted."""


class ClaimMark:
    """Marks an aggregate's field whose value at most one aggregate of its kind may hold within a tenant."""


class Erased:
    """What is left of a personal value once its subject's key has been destroyed."""

    def __repr__(self) -> str:
        """Say what happened to the value."""
        return "<erased>"

    def __eq__(self, other: object) -> bool:
        """Any two erased values are alike: nothing is left that could tell them apart."""
        return isinstance(other, Erased)

    def __hash__(self) -> int:
        """Hash in line with equality."""
        return hash(Erased)

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: object, _handler: GetCoreSchemaHandler) -> CoreSchema:
        """Read and write as `{"erased": true}`, which no personal value can be mistaken for."""
        from_json = core_schema.no_info_after_validator_function(
            lambda _: erased,
            core_schema.typed_dict_schema(
                {"erased": core_schema.typed_dict_field(core_schema.literal_schema([True]))},
                extra_behavior="forbid",
            ),
        )
        return core_schema.json_or_python_schema(
            json_schema=from_json,
            python_schema=core_schema.union_schema([core_schema.is_instance_schema(cls), from_json]),
            serialization=core_schema.plain_serializer_function_ser_schema(lambda _: {"erased": True}),
        )


erased = Erased()

Key = Annotated[T, KeyMark()]
Subject = Annotated[T, SubjectMark()]
Claim = Annotated[T, ClaimMark()]
Personal = Annotated[Union[T, Erased], PersonalMark()]  # noqa: UP007 - a TypeVar alias needs Union on 3.11

PersonId = NewType("PersonId", UUID)
"""A person known to identity (random UUID, never derived from a contact)."""

CustomerId = NewType("CustomerId", UUID)
"""A tenant's CRM customer. Not a person: a link between the two is an explicit fact."""

ProductId = NewType("ProductId", UUID)
"""Something that access can be granted to."""


def _known_currency(code: str) -> str:
    if code not in _CURRENCIES:
        msg = f"{code!r} is no ISO 4217 currency; send the three-letter code in capitals, such as 'EUR'"
        raise ValueError(msg)
    return code


_CURRENCIES = frozenset(currency.alpha_3 for currency in pycountry.currencies)

Currency = Annotated[str, AfterValidator(_known_currency)]
"""An ISO 4217 code in capitals."""


class Money(BaseModel):
    """An amount of one currency in its ISO 4217 minor unit (cents). Never a float, never negative."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", use_attribute_docstrings=True)

    minor: int = Field(ge=0, lt=10**15)
    """The amount in minor units: 1250 is 12.50 of a two-decimal currency."""

    currency: Currency
    """ISO 4217 code in capitals."""


def _normal_email(text: str) -> str:
    try:
        found = validate_email(text, check_deliverability=False)
    except EmailNotValidError as wrong:
        msg = f"not an e-mail address: {wrong}"
        raise ValueError(msg) from None
    return f"{found.local_part.lower()}@{found.domain}"


def _normal_phone(text: str) -> str:
    try:
        number = phonenumbers.parse(text)
    except phonenumbers.NumberParseException as wrong:
        msg = f"not a phone number in international form (+4930123456): {wrong}"
        raise ValueError(msg) from None
    if not phonenumbers.is_possible_number(number):
        msg = "not a possible phone number; send it in E.164, such as +4930123456"
        raise ValueError(msg)
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)


EmailText = Annotated[str, Field(max_length=320), AfterValidator(_normal_email)]
"""An e-mail address, normalised: NFC, IDNA domain, lower case."""

PhoneText = Annotated[str, Field(max_length=32), AfterValidator(_normal_phone)]
"""A phone number, normalised to E.164."""


def _written_out(moment: object) -> object:
    # Pydantic alone would take 5 and "5" for five seconds after 1970.
    if isinstance(moment, datetime) or (isinstance(moment, str) and moment.count("-") >= 2):
        return moment
    msg = "not a moment in ISO 8601; send one such as 2026-05-04T12:30:00Z"
    raise ValueError(msg)


def _in_utc(moment: datetime) -> datetime:
    if moment.tzinfo is None:
        msg = "has no zone; send one such as 2026-05-04T12:30:00Z"
        raise ValueError(msg)
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        msg = "out of range; send a moment between the years 1 and 9999 in UTC"
        raise ValueError(msg) from None


Instant = Annotated[datetime, Field(strict=False), BeforeValidator(_written_out), AfterValidator(_in_utc)]
"""A moment, kept in UTC. One without a zone is refused: nobody could say when it was."""

ShortText = Annotated[str, Field(min_length=1, max_length=255)]
"""A line of text: a name, a reason, a code."""


class Folded(BaseModel):
    """A state that messages are folded into: immutable, strictly typed; the next one is a changed copy."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", use_attribute_docstrings=True)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Give a copy with other values, which are not validated; a shallow one costs a third of what pydantic's does."""
        if deep:
            return super().model_copy(update=update, deep=True)
        made = self.__class__.__new__(self.__class__)
        values = {**self.__dict__, **(update or {})}
        object.__setattr__(made, "__dict__", values)
        object.__setattr__(made, "__pydantic_fields_set__", set(values))
        object.__setattr__(made, "__pydantic_extra__", None)
        object.__setattr__(made, "__pydantic_private__", None)
        return made


class Message(BaseModel):
    """What travels: immutable, strictly typed; a field that a reader does not know is kept, never dropped.

    Class arguments: `public` (upstream may send it to `<context>.inbound`), `version` (of the contract, from 1).
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="allow", use_attribute_docstrings=True)

    public: ClassVar[bool] = False
    version: ClassVar[int] = 1

    def __init_subclass__(cls, *, public: bool = False, version: int = 1, **kwargs: Any) -> None:
        """Take the contract's standing from the class statement."""
        super().__init_subclass__(**kwargs)
        cls.public = public
        cls.version = version


class Event(Message):
    """A fact: it has happened, and exactly one context owns it."""


class Refusal(Event):
    """The fact that a command was refused. It changes no state; whoever asked learns why."""

    reason: str
    """Why, in words for a person."""


class Command(Message):
    """A wish: exactly one decider answers it, with facts."""


class Past(Message):
    """An old version of a contract that is still read: `class XV1(Past, of="X", version=1)`, with its upcaster."""

    of: ClassVar[str] = ""

    def __init_subclass__(cls, *, of: str = "", **kwargs: Any) -> None:
        """Take the name of the contract that this is an old version of."""
        super().__init_subclass__(**kwargs)
        cls.of = of

    def upcast(self) -> Message:
        """Give the same fact or wish as the next version: pure, and total over every recorded message."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Metadata:
    """What the envelope says of a message."""

    tenant: str
    source: str
    id: str
    correlation: str
    causation: str | None
    time: datetime
    """Business time as the sender gave it (UTC); may be anything."""


class NewId(Protocol):
    """Gives a fresh id at each call; the same message gets the same ids again."""

    def __call__(self) -> UUID:
        """Give the next id."""
        ...


def marked(model: type[BaseModel], mark: type) -> tuple[str, ...]:
    """Name the fields of `model` that carry `mark` (`KeyMark`, `PersonalMark`, ...), in their order."""
    return tuple(
        name for name, field in model.model_fields.items() if _carries(field.annotation, field.metadata, mark)
    )


def _carries(annotation: object, metadata: list[Any], mark: type) -> bool:
    if any(isinstance(item, mark) for item in metadata):
        return True
    # `Personal[str] | None` and `Key[Annotated[...]]` hide the mark one level down.
    nested: tuple[object, ...] = getattr(annotation, "__args__", ())
    return any(_carries(inner, list(getattr(inner, "__metadata__", ())), mark) for inner in nested)


def context_of(model: type[Message]) -> str:
    """Name the context whose contract `model` belongs to: the module under `events` that defines it."""
    return model.__module__.split(".")[1]


@cache
def type_of(model: type[Message]) -> str:
    """Name `model` as the wire does: `payments.PaymentCompleted`."""
    name = model.of if issubclass(model, Past) else model.__name__
    return f"{context_of(model)}.{name}"


Fields = Mapping[str, Any]
