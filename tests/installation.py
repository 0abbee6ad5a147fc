"""An installation of the tests' own: broker, database and worker processes that can be killed, stopped and started."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Container, Coroutine, Generator, Iterable, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from unittest.mock import patch
from uuid import uuid4

import asyncpg
import httpx
import psutil
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from infra.embedded.process import ROOT, python, surroundings
from infra.kafka.admin import Admin, BrokerUnavailable
from infra.migrations.migrate import migrate
from infra.runtime.catalog import Catalog, discover
from infra.runtime.catalog.schemas import chains
from infra.settings import Settings
from tests.embedded.jars import software

T = TypeVar("T")
NOWHERE = "http://127.0.0.1:9"

_NOT_FOLDED = """EXISTS (SELECT FROM projections.generations g WHERE 'projections.' || g.projection = c.consumer
    AND g.generation = c.generation AND g.standing NOT IN ('active', 'standby'))"""
"""Which positions of read models no worker moves."""

AWAY: tuple[type[BaseException], ...] = (
    OSError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    BrokerUnavailable,
    TimeoutError,
)
"""What a test meets while the servers are being restarted."""


def plain_environment() -> dict[str, str]:
    """Give the environment without whatever points at the servers of the test session."""
    return {
        name: value
        for name, value in surroundings().items()
        if name not in {"TRIPLANE_KAFKA", "TRIPLANE_POSTGRES", "TRIPLANE_HOME", "TRIPLANE_MASTER_KEY"}
    }


class Process:
    """One worker process; a new one each time it is started."""

    def __init__(self, command: list[str], log: Path, environment: Mapping[str, str]) -> None:
        """Prepare to run `command`."""
        self._command = command
        self._log = log
        self._environment = environment
        self._running: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it."""
        with self._log.open("ab") as log:
            self._running = subprocess.Popen(
                self._command, env=self._environment, stdout=log, stderr=log, cwd=ROOT, start_new_session=True
            )

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._running is not None and self._running.poll() is None

    def kill(self) -> None:
        """Take its life at whatever it is doing."""
        if self._running is not None:
            self._running.kill()
            self._running.wait()

    def terminate(self, within: float = 30) -> int:
        """Ask it to end; give its exit code."""
        assert self._running is not None
        self._running.terminate()
        return self._running.wait(within)

    def ended(self, within: float) -> int | None:
        """Give its exit code, or `None` when it still runs after so many seconds."""
        assert self._running is not None
        try:
            return self._running.wait(within)
        except subprocess.TimeoutExpired:
            return None

    def hold(self) -> None:
        """Stop it where it is."""
        assert self._running is not None
        self._running.send_signal(signal.SIGSTOP)

    def release(self) -> None:
        """Let it go on."""
        assert self._running is not None
        self._running.send_signal(signal.SIGCONT)


@dataclass
class Sent:
    """What upstream has sent: one message."""

    topic: str
    tenant: str
    key: str
    type: str
    body: dict[str, Any] | bytes
    id: str = field(default_factory=lambda: str(uuid4()))
    headers: dict[str, str] = field(default_factory=dict[str, str])
    """Further headers, or others than those that every message has."""


class Installation:
    """Broker and database in one home, and any number of workers."""

    def __init__(self, home: Path, software: Path) -> None:
        """Prepare; everything lives in `home`."""
        self.home = home
        self._software = software
        self._servers: subprocess.Popen[str] | None = None
        self._reader: threading.Thread
        self._workers: list[Process] = []
        self.settings: Settings

    # -- servers ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start broker and database, and bring them to what the code declares."""
        command = python("infra.embedded", str(self.home), str(self._software))
        self._servers = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=plain_environment())
        assert self._servers.stdout
        assert "ready\n" in self._servers.stdout, "the embedded servers did not start; see their logs"
        # Nobody reads on, and a full pipe would stop them.
        self._reader = threading.Thread(target=self._servers.stdout.read, daemon=True)
        self._reader.start()
        with patch.dict(os.environ, plain_environment(), clear=True):
            self.settings = Settings.load(self.home)
        asyncio.run(migrate(self.settings, self.catalog))

    def stop(self) -> None:
        """Stop everything."""
        for worker in self._workers:
            with suppress(ProcessLookupError):
                worker.kill()
        if self._servers is not None:
            self._servers.terminate()
            self._servers.wait(60)
            self._reader.join()
            if self._servers.stdout:
                self._servers.stdout.close()

    def kill_server(self, name: str) -> None:
        """Take the life of `kafka` or `postgres`; their supervisor starts it again."""
        processes = json.loads((self.home / "processes.json").read_text())
        (pid,) = [row["pid"] for row in processes if row["name"] == name]
        psutil.Process(pid).kill()

    # -- workers ----------------------------------------------------------------------------------------------------

    @property
    def catalog(self) -> Catalog:
        """What the code declares."""
        return discover()

    def worker(self, *names: str, module: str = "infra.cli", **environment: str) -> Process:
        """Give a worker process for `names`: the product's own command, unless a test brings a mutant."""
        arguments = ["work", *names] if module == "infra.cli" else list(names)
        return self.process(*arguments, module=module, **environment)

    def process(self, *arguments: str, module: str = "infra.cli", **environment: str) -> Process:
        """Give a process of the product's own command line, or of a module of the tests."""
        log = self.home / "logs" / f"worker-{len(self._workers)}.log"
        log.parent.mkdir(exist_ok=True)
        # Nobody is charged in earnest: unless a test runs the simulator, there is no provider.
        given = {"TRIPLANE_HOME": str(self.home), "TRIPLANE_STRIPE_API_BASE": NOWHERE, **environment}
        process = Process(python(module, *arguments), log, {**plain_environment(), **given})
        self._workers.append(process)
        return process

    @contextmanager
    def working(self, *names: str, module: str = "infra.cli", **environment: str) -> Generator[Process]:
        """Run a worker process as long as the block runs."""
        process = self.worker(*names, module=module, **environment)
        process.start()
        try:
            yield process
        finally:
            process.kill()

    @contextmanager
    def provider(self) -> Generator[str]:
        """Run the Stripe simulator as long as the block runs; give its address."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        base = f"http://127.0.0.1:{port}"

        def answers() -> bool:
            try:
                return httpx.get(base, timeout=1, trust_env=False).status_code > 0
            except httpx.HTTPError:
                return False

        # Nobody takes its webhooks: not even who has the port where a platform is looked for first.
        with self.working("--port", str(port), module="infra.embedded.stripe", TRIPLANE_HTTP_PORT="9"):
            self.until(answers, 30, "the simulator answers")
            yield base

    # -- upstream ---------------------------------------------------------------------------------------------------

    def send(self, messages: Iterable[Sent], *, per_second: float = 1e9) -> None:
        """Send as upstream does: a plain client, all replicas asked; returns when everything is acknowledged."""
        producer = Producer(
            {
                "bootstrap.servers": self.settings.kafka,
                "acks": "all",
                "enable.idempotence": True,
                "linger.ms": 5,
                "message.timeout.ms": 120_000,
                "log_level": 0,
            }
        )
        failed: list[str] = []

        def told(error: object, _: object) -> None:
            if error is not None:
                failed.append(str(error))

        began = time.monotonic()
        for number, message in enumerate(messages):
            headers = {
                "ce_specversion": "1.0",
                "ce_id": message.id,
                "ce_type": message.type,
                "ce_source": "upstream",
                "ce_tenantid": message.tenant,
                **message.headers,
            }
            body = message.body if isinstance(message.body, bytes) else json.dumps(message.body).encode()
            producer.produce(
                message.topic, body, message.key, headers=list(headers.items()), on_delivery=told
            )
            producer.poll(0)
            time.sleep(max(0.0, began + number / per_second - time.monotonic()))
        assert producer.flush(120) == 0
        assert not failed, failed[:3]

    # -- then -------------------------------------------------------------------------------------------------------

    def query(self, query: str, *arguments: object) -> list[dict[str, Any]]:
        """Ask the database as its administrator; waits out a restart."""

        async def ask() -> list[dict[str, Any]]:
            connection = await asyncpg.connect(self.settings.postgres, timeout=5)
            try:
                return [dict(row) for row in await connection.fetch(query, *arguments)]
            finally:
                await connection.close()

        return self.patiently(ask)

    def patiently(self, ask: Callable[[], Coroutine[Any, Any, T]], within: float = 60) -> T:
        """Ask until the servers answer."""
        deadline = time.monotonic() + within
        while True:
            try:
                return asyncio.run(ask())
            except AWAY:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)

    def value(self, query: str, *arguments: object) -> Any:
        """Ask for one value."""
        ((value,),) = [tuple(row.values()) for row in self.query(query, *arguments)]
        return value

    def pending(self) -> dict[str, int]:
        """Say what is still under way: records that a consumer has not folded, and rows that no relay has published."""

        async def ask() -> dict[str, int]:
            admin = Admin(self.settings.kafka, timeout_s=5)
            ends = await admin.offsets((await admin.topics(self.catalog.topics)).values(), end=True)
            found: dict[str, int] = {}
            connection = await asyncpg.connect(self.settings.postgres, timeout=5)
            try:
                for schema, labels in chains(self.catalog).items():
                    if "engine" in labels:
                        idle = "false" if schema != "projections" else _NOT_FOLDED
                        for row in await connection.fetch(
                            f"SELECT * FROM {schema}.checkpoints c WHERE NOT ({idle})"
                        ):
                            behind = ends[row["topic"], row["partition"]] - row["next_offset"]
                            if behind > 0 and row["consumer"] in self.catalog.consumers:
                                found[row["consumer"]] = found.get(row["consumer"], 0) + behind
                    if "outbox" in labels:
                        rows = await connection.fetchval(f"SELECT count(*) FROM {schema}.outbox")
                        if rows:
                            found[f"relay.{schema}"] = rows
            finally:
                await connection.close()
            return found

        return self.patiently(ask)

    def drained(self, within: float, *, without: Iterable[str] = ()) -> float:
        """Wait until nothing is under way (but for what nobody works on); give the seconds that it took."""
        idle = set(without)
        began = time.monotonic()
        pending: dict[str, int] = {}
        while time.monotonic() - began < within:
            pending = {name: number for name, number in self.pending().items() if name not in idle}
            if not pending:
                return time.monotonic() - began
            time.sleep(0.3)
        raise AssertionError(f"still under way after {within:.0f} s: {pending}")

    def log(self, topic: str) -> list[tuple[int, str, dict[str, str], bytes]]:
        """Read a whole topic: partition, key, headers and value, each partition in its order."""
        consumer = Consumer(
            {
                "bootstrap.servers": self.settings.kafka,
                "group.id": str(uuid4()),
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "auto.offset.reset": "earliest",
                "log_level": 0,
            }
        )
        partitions = list(consumer.list_topics(topic, timeout=30).topics[topic].partitions)
        consumer.assign([TopicPartition(topic, number, 0) for number in partitions])
        found = []
        open_ones = set(partitions)
        deadline = time.monotonic() + 60
        while open_ones and time.monotonic() < deadline:
            for message in consumer.consume(1_000, timeout=1):
                number = message.partition()
                assert number is not None
                if message.error() is not None:
                    open_ones.discard(number)
                    continue
                headers: Any = message.headers() or []
                key: Any = message.key() or b""
                texts = {name: (raw or b"").decode() for name, raw in headers}
                found.append((number, key.decode(), texts, bytes(message.value() or b"")))
        consumer.close()
        assert not open_ones, "the topic could not be read to its end"
        return found

    def until(self, condition: Callable[[], object], within: float, what: str) -> float:
        """Wait for a condition; give the seconds that it took."""
        began = time.monotonic()
        while time.monotonic() - began < within:
            if condition():
                return time.monotonic() - began
            time.sleep(0.1)
        raise AssertionError(f"not within {within:.0f} s: {what}")


def order_breaks(
    log: Iterable[tuple[int, str, dict[str, str], bytes]], tenants: Container[str]
) -> tuple[int, int, int]:
    """Count in a topic of facts: records that came again, first occurrences out of order, gaps in sequences."""
    again = breaks = 0
    seen: dict[tuple[str, str, str], set[int]] = {}
    for _, key, headers, _ in log:
        if headers["ce_tenantid"] not in tenants:
            continue
        kind = headers["ce_type"].partition(".")[0]
        sequences = seen.setdefault((headers["ce_tenantid"], kind, key), set())
        number = int(headers["ce_sequence"])
        if number in sequences:
            again += 1
        elif sequences and number < max(sequences):
            breaks += 1
        sequences.add(number)
    gaps = sum(max(it) - len(it) for it in seen.values())
    return again, breaks, gaps


@pytest.fixture(scope="session")
def installation(platform: Settings, tmp_path_factory: pytest.TempPathFactory) -> Generator[Installation]:
    """An installation without workers, with a broker and a database that may be broken: nobody else's."""
    assert platform.kafka, "started, so its jars are there"
    made = Installation(tmp_path_factory.mktemp("installation"), software())
    try:
        made.start()
        yield made
    finally:
        made.stop()
