"""The embedded broker and database are the real ones, set up as production would be, and survive every kill."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import psutil
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from infra.embedded import EmbeddedError
from infra.embedded.kafka_jars import jars
from infra.embedded.process import orphans, python, surroundings
from infra.settings import Settings
from tests.embedded.jars import software

TOPIC = TopicPartition("survives", 0)


@contextmanager
def servers(home: Path) -> Generator[subprocess.Popen[str]]:
    """A broker and a database of one's own."""
    environment = {name: value for name, value in surroundings().items() if not name.startswith("TRIPLANE_")}
    command = python("infra.embedded", str(home), str(software()))
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as running:
        assert running.stdout
        try:
            assert "ready\n" in running.stdout
            yield running
        finally:
            running.terminate()


async def test_the_database_is_durable_and_asks_for_a_password(platform: Settings) -> None:
    connection = await asyncpg.connect(platform.postgres)
    try:
        for setting, value in {"fsync": "on", "synchronous_commit": "on", "data_checksums": "on"}.items():
            assert await connection.fetchval(f"SHOW {setting}") == value
        assert (await connection.fetchval("SHOW server_version")).startswith("18.")
        assert await connection.fetchval("SHOW listen_addresses") == "127.0.0.1"
    finally:
        await connection.close()
    parts = urlsplit(platform.postgres)
    for password in ("wrong", None):
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(
                host=parts.hostname, port=parts.port, user=parts.username, password=password
            )


async def test_killed_with_all_they_run_they_lose_nothing(platform: Settings, tmp_path: Path) -> None:
    assert platform.kafka, "started, so its jars are there"
    home = tmp_path / "home"
    with servers(home) as running:
        endpoints = json.loads((home / "endpoints.json").read_text())
        await _write(endpoints)
        for process in [psutil.Process(running.pid), *orphans(home)]:
            with suppress(psutil.NoSuchProcess):  # gone with the one before
                process.send_signal(signal.SIGKILL)
    with servers(home):
        assert json.loads((home / "endpoints.json").read_text()) == endpoints
        await _read(endpoints)
    assert orphans(home) == []


async def _write(endpoints: dict[str, str]) -> None:
    connection = await asyncpg.connect(endpoints["postgres"])
    await connection.execute("CREATE TABLE survives AS SELECT 42 AS answer")
    await connection.close()
    admin = AIOKafkaAdminClient(bootstrap_servers=endpoints["kafka"])
    await admin.start()
    await admin.create_topics([NewTopic(TOPIC.topic, 1, 1)])
    await admin.close()
    async with AIOKafkaProducer(bootstrap_servers=endpoints["kafka"], acks="all") as producer:
        sent = await producer.send_and_wait(TOPIC.topic, b"42", timestamp_ms=1)
    assert sent.timestamp_type == 1, "the broker's append time, not the sender's"


async def _read(endpoints: dict[str, str]) -> None:
    connection = await asyncpg.connect(endpoints["postgres"])
    assert await connection.fetchval("SELECT answer FROM survives") == 42
    await connection.close()
    async with AIOKafkaConsumer(bootstrap_servers=endpoints["kafka"]) as consumer:
        consumer.assign([TOPIC])
        await consumer.seek_to_beginning(TOPIC)
        async with asyncio.timeout(20):
            assert (await consumer.getone()).value == b"42"


async def test_a_jar_that_differs_is_never_used(
    platform: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert platform.kafka, "started, so its jars are there"
    shutil.copytree(software() / "kafka", tmp_path / "kafka")
    news: list[str] = []
    assert len(await jars(tmp_path, tmp_path, news.append)) == 46
    assert news == [], "nothing is downloaded again"
    jar = tmp_path / "kafka" / "kafka-clients-4.3.1.jar"
    os.truncate(jar, 1000)
    # without a way out nothing can be downloaded, and the truncated one is not taken instead
    for name in ("HTTPS_PROXY", "HTTP_PROXY", "https_proxy", "http_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with pytest.raises(EmbeddedError, match="kafka-download failed"):
        await jars(tmp_path, tmp_path, news.append)
