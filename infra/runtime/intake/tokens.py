"""A token stands for one message that was sent in: whoever holds it can ask what came of it, and read behind it.

It is an address, not a key: it grants nothing, and is of use only to a caller of the same tenant.
"""

from __future__ import annotations

import binascii
import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass
from typing import Final, cast

from infra.errors import Unacceptable
from infra.runtime.messages.envelope import MAX_ATTRIBUTE, Envelope
from infra.runtime.messages.ids import content_hash, derived_id

MAX_LENGTH: Final = 2_000
_VERSION: Final = 1
INTAKE: Final = "intake"
"""The consumer in whose name ids of what came in by HTTP or the command line are derived."""


@dataclass(frozen=True, slots=True)
class Token:
    """Which message is meant. For one that was published to Kafka directly, its own tenant, source and id do."""

    tenant: str
    context: str
    source: str
    id: str
    digest: int | None = None
    """Tells the body from another under the same id; `None` where the sender did not know it."""

    @classmethod
    def of(cls, envelope: Envelope, body: bytes) -> Token:
        """Give the token of a message that is sent in."""
        context = envelope.type.partition(".")[0]
        return cls(envelope.tenant, context, envelope.source, envelope.id, content_hash(envelope.type, body))

    @property
    def intake_id(self) -> str:
        """The id under which the intake's outbox keeps the message."""
        return str(derived_id(INTAKE, self.tenant, self.source, self.id))

    def __str__(self) -> str:
        """Write it as it is handed out: letters, digits, `-` and `_`."""
        parts = [_VERSION, self.tenant, self.context, self.source, self.id, self.digest]
        text = json.dumps(parts, ensure_ascii=False, separators=(",", ":"))
        return urlsafe_b64encode(text.encode()).decode().rstrip("=")


def parse_token(text: str) -> Token:
    """Read a token; raise `Unacceptable` when it is none of ours."""
    wrong = Unacceptable(
        "token",
        "token: is none of ours; send the 'token' from the answer to the command or event, unchanged, or a command's 'id' "
        "(an event's own id is its sender's, and no token)",
    )
    if len(text) > MAX_LENGTH or not text.isascii():
        raise wrong
    try:
        found: object = json.loads(urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except (binascii.Error, ValueError, RecursionError):
        raise wrong from None
    if not isinstance(found, list):
        raise wrong
    match cast("list[object]", found):
        case [1, str(tenant), str(context), str(source), str(message), int() | None as digest] if (
            not isinstance(digest, bool)
        ):
            texts = (tenant, context, source, message)
            in_range = digest is None or -(2**63) <= digest < 2**63
            if in_range and all(0 < len(it) <= MAX_ATTRIBUTE and it.isprintable() for it in texts):
                return Token(tenant, context, source, message, digest)
        case _:
            pass
    raise wrong
