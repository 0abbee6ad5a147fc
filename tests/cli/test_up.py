"""The whole platform by two commands: it comes up, refuses a second one, survives the death of everything, goes down."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import cast

import httpx
import psutil
import pytest

from infra.embedded.process import orphans, python, surroundings
from infra.settings import Settings
from tests.embedded.jars import software

START_S = 120


@pytest.fixture
def home(platform: Settings, tmp_path: Path) -> Path:
    """A new home; the jars are those of this session's servers."""
    assert platform.kafka, "started, so its jars are there"
    home = tmp_path / "home"
    home.mkdir(mode=0o711)
    (home / "software").symlink_to(software())
    return home


def triplane(home: Path, *arguments: str) -> subprocess.Popen[str]:
    kept = {name: value for name, value in surroundings().items() if not name.startswith("TRIPLANE_")}
    command = python("infra.cli", "--home", str(home), *arguments)
    return subprocess.Popen(command, env=kept, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def outcome(home: Path, *arguments: str) -> tuple[int, str]:
    with triplane(home, *arguments) as process:
        output = process.communicate(timeout=START_S)[0]
    return process.returncode, output


@contextmanager
def up(home: Path) -> Generator[subprocess.Popen[str]]:
    """A platform that is ready."""
    with triplane(home, "up") as process:
        try:
            deadline = time.monotonic() + START_S
            while not (home / "endpoints.json").exists():
                assert process.poll() is None, process.communicate()[0]
                assert time.monotonic() < deadline
                time.sleep(0.1)
            yield process
        finally:
            process.terminate()
            process.communicate(timeout=START_S)


def addresses(home: Path) -> dict[str, str]:
    return cast("dict[str, str]", json.loads((home / "endpoints.json").read_text()))


def test_up_status_down_and_every_death_between(home: Path) -> None:
    with up(home) as first:
        before = addresses(home)
        assert httpx.get(f"{before['http']}/readyz").status_code == 200
        assert first.stdout
        shown = next(line for line in first.stdout if "postgresql://" in line).split()[-1]
        assert shown == re.sub(":[0-9a-f]+@", "@", before["postgres"]) != before["postgres"]
        code, refusal = outcome(home, "up")
        assert code == 3
        assert f"in use by process {first.pid}" in refusal
        report = json.loads(outcome(home, "status", "--json")[1])
        assert report["state"] == "running"
        assert report["engine"]["state"] == "green", "what is ready has begun to work"
        assert {"kafka", "postgres", "serve"} <= {process["name"] for process in report["processes"]}
        for process in [psutil.Process(first.pid), *orphans(home)]:
            with suppress(psutil.NoSuchProcess):  # gone with the one before
                process.send_signal(signal.SIGKILL)
    (home / "endpoints.json").unlink()
    with up(home) as second:
        assert addresses(home) == before
        assert outcome(home, "down") == (0, "stopped\n")
        assert second.wait(10) == 0
    assert orphans(home) == []
    assert not (home / "endpoints.json").exists()
