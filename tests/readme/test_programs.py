"""The programs of README.md do what is said of them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

import pytest
from aiokafka import codec
from confluent_kafka import Consumer, TopicPartition

from events.customers import RecordConversation
from events.identity import UserVerified
from events.payments import PaymentCompleted
from infra.embedded.process import ROOT, surroundings
from infra.kafka.admin import Admin
from infra.kafka.record import Record
from infra.runtime.catalog import discover
from infra.runtime.messages.codec import Codec
from infra.runtime.messages.envelope import Envelope, open_record
from tests.readme.blocks import block, blocks

if TYPE_CHECKING:
    from events import Message
    from infra.runtime.messages.vault import Vault
    from infra.settings import Settings

TOPIC = "identity.inbound"
PACKAGES = ("events", "handlers", "projections", "sagas", "infra", "tests")


def admitted(record: Record) -> tuple[Envelope, Message]:
    """Read a record as the platform does at its door."""
    envelope, body = open_record(record)
    door = Codec(discover(), cast("Vault", None))
    return envelope, door.decode(door.contract_of(record.topic, envelope), envelope, body, trusted=False)


async def test_the_python_program_publishes_what_the_platform_takes_in(
    platform: Settings, tmp_path: Path
) -> None:
    admin = Admin(platform.kafka)
    await admin.ensure_topics([TOPIC])
    before = await admin.offsets((await admin.topics([TOPIC])).values(), end=True)
    program = tmp_path / "publish.py"
    program.write_text(block("publish.py"), "utf-8")
    done = subprocess.run(
        [sys.executable, program, platform.kafka], text=True, capture_output=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    consumer = Consumer({"bootstrap.servers": platform.kafka, "group.id": "readme"})
    consumer.assign([TopicPartition(*place, offset) for place, offset in before.items()])
    person, seen = UUID(done.stdout.strip()), []
    while person not in seen:
        found = consumer.poll(30)
        assert found is not None, "nothing arrived"
        assert not found.error(), found.error()
        if found.key() == str(person).encode():
            headers = cast("list[tuple[str, bytes]]", found.headers())
            _, message = admitted(
                Record(
                    TOPIC, found.partition() or 0, found.offset() or 0, 0, found.key(), found.value(), headers
                )
            )
            assert isinstance(message, UserVerified)
            seen.append(message.person_id)
    consumer.close()


@pytest.mark.parametrize("compression", ["gzip", "snappy", "lz4", "zstd"])
def test_whatever_a_client_compresses_with_can_be_read(compression: str) -> None:
    """A batch that cannot be unpacked would hold up its partition; Go's client, for one, compresses unasked."""
    assert getattr(codec, f"has_{compression}")()


def test_the_javascript_program_says_what_the_contract_asks_for() -> None:
    text = block("publish.mjs")
    payment = re.search(r"const payment = (\{.*?\n\});", text, re.DOTALL)
    assert payment
    body = (
        re.sub(r"//.*", "", payment[1])
        .replace("randomUUID()", f'"{UUID(int=1)}"')
        .replace("person,", f'"{UUID(int=2)}",')
    )
    body = body.replace("new Date().toISOString()", '"2026-05-04T12:30:00.000Z"')
    body = re.sub(r"(\w+): ", r'"\1": ', re.sub(r",(\s*\})", r"\1", body))
    message = PaymentCompleted.model_validate_json(body)
    assert set(message.model_fields_set) == set(PaymentCompleted.model_fields)
    assert '"payments.PaymentCompleted"' in text
    assert '"payments.inbound"' in text


def test_the_go_program_says_what_the_contract_asks_for() -> None:
    text = block("main.go")
    event = re.search(r"Sprintf\(`(.*?)`", text, re.DOTALL)
    topic = re.search(r'Topic: "([\w.]+)"', text)
    assert event
    assert topic
    value = event[1].replace("%s", str(UUID(int=3))).encode()
    record = Record(topic[1], 0, 0, 0, None, value, [("content-type", b"application/cloudevents+json")])
    envelope, message = admitted(record)
    assert isinstance(message, RecordConversation)
    assert (envelope.version, envelope.tenant, message.channel) == (2, "demo-a", "web")


@pytest.mark.parametrize("shell", [it.text for it in blocks("sh") if '"specversion"' in it.text])
def test_the_events_in_shell_commands_fit_their_contracts(shell: str) -> None:
    for text in re.findall(r"'(\{.\"?specversion.*?\})'|'(\{\"specversion.*?\})'", shell, re.DOTALL):
        event: dict[str, Any] = json.loads("".join(text))
        if event["type"].startswith("feedback."):
            continue
        value = json.dumps(event | {"tenantid": "demo-a"}).encode()
        topic = f"{event['type'].partition('.')[0]}.inbound"
        admitted(Record(topic, 0, 0, 0, None, value, [("content-type", b"application/cloudevents+json")]))


def test_three_edits_make_an_event_a_handler_and_a_projection(tmp_path: Path) -> None:
    for package in PACKAGES:
        shutil.copytree(
            ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__", "node_modules")
        )
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    edits = [it.name for it in blocks("python") if "/" in it.name]
    assert len(edits) == len({"event", "handler", "projection", "test"})
    for name in edits:
        (tmp_path / name).write_text(block(name), "utf-8")

    def python(*arguments: str) -> str:
        environment = {**surroundings(), "PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=tmp_path,
            env=environment,
            text=True,
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    python("-m", "ruff", "check", "--no-cache", *edits)
    python("-m", "ruff", "format", "--no-cache", "--check", *edits)
    python("-m", "pytest", "-q", "-p", "no:cacheprovider", edits[-1])
    catalog = python("-m", "infra.cli", "catalog")
    assert "feedback.RatingGiven v1 (event public)" in catalog
    assert "from feedback, upstream; to feedback, projections.product_ratings" in catalog
