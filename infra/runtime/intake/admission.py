"""What comes in by HTTP or the command line is checked like `.inbound` itself, with the same words, and becomes a row there.

A message is accepted once its row in the intake's outbox is committed, so brokers may be away. It is not sealed: what
upstream sends is clear text on `.inbound` by whichever way it comes.
"""

from __future__ import annotations

from uuid import UUID

from infra.runtime.consuming.tenancy import Tenancy
from infra.runtime.intake.tokens import Token
from infra.runtime.messages.codec import Codec
from infra.runtime.messages.envelope import Envelope
from infra.runtime.publishing import outbox
from infra.runtime.publishing.outbox import Outgoing


class Admission:
    """The door for what comes in other than by Kafka."""

    def __init__(self, codec: Codec, tenancy: Tenancy) -> None:
        """Read bodies with `codec`; admit the tenants of `tenancy`."""
        self.codec = codec
        self.tenancy = tenancy

    async def admit(self, envelope: Envelope, body: bytes) -> Outgoing:
        """Check one message for its tenant's sake and its own; raise `Unacceptable` naming the field."""
        await self.tenancy.admit(envelope.tenant)
        topic = f"{envelope.type.partition('.')[0]}.inbound"
        contract = self.codec.contract_of(topic, envelope)
        message = self.codec.decode(contract, envelope, body, trusted=False)
        intake_id = UUID(Token.of(envelope, body).intake_id)
        outgoing = Outgoing(intake_id, topic, str(getattr(message, contract.key)), envelope, body)
        outbox.check_size(outgoing)
        return outgoing
