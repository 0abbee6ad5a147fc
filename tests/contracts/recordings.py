"""Messages as upstream systems sent them, byte by byte, each with what it was read as.

One file for each public message type and version under `recorded/`, holding any number of messages:

    ### who sent it, and what is special about it
    content-type: application/json
    ce_id: ...

    {"the": "body, exactly as it was sent"}

    === read as
    {"what": "the platform made of it"}
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.kafka.record import Record

RECORDED = Path(__file__).parent / "recorded"
APPENDED_MS = 1_767_600_000_000
"""When the broker is said to have taken each of them."""


@dataclass(frozen=True, slots=True)
class Recording:
    """One message; `contract` and `version` are those of its file."""

    contract: str
    version: int
    about: str
    headers: dict[str, str]
    body: bytes
    read_as: dict[str, Any]

    @property
    def record(self) -> Record:
        """The message as a record of its context's inbound topic."""
        topic = f"{self.contract.partition('.')[0]}.inbound"
        headers = [(name, text.encode()) for name, text in self.headers.items()]
        return Record(topic, 0, 0, APPENDED_MS, None, self.body, headers)


def recordings() -> list[Recording]:
    """Read every recorded message."""
    return [it for path in sorted(RECORDED.glob("*.messages")) for it in _messages(path)]


def _messages(path: Path) -> Iterator[Recording]:
    contract, _, version = path.stem.rpartition(".v")
    for block in re.split(r"^### ", path.read_text("utf-8"), flags=re.MULTILINE)[1:]:
        head, _, rest = block.partition("\n\n")
        about, *lines = head.splitlines()
        body, _, read_as = rest.partition("\n\n=== read as\n")
        headers = dict(line.split(": ", 1) for line in lines)
        yield Recording(contract, int(version), about, headers, body.encode(), json.loads(read_as))
