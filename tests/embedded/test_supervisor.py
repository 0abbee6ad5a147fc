"""Processes are kept, stopped in order, never outlive their supervisor for long, and strangers are left alone."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import AsyncGenerator
from pathlib import Path

import psutil
import pytest

from infra.embedded import EmbeddedError
from infra.embedded.process import LAUNCH, MARK, Program, orphans, python, reap, surroundings
from infra.embedded.supervisor import RESTART_AT_ONCE, Supervisor

SUPERVISE = """
import asyncio, sys, pathlib
from infra.embedded.process import Program
async def main():
    home = pathlib.Path(sys.argv[1])
    process = await Program("sleeper", [sys.executable, "-c", "import time; time.sleep(600)"], home).start()
    print(process.pid, flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
"""


class Told:
    """What the supervisor reports."""

    def __init__(self) -> None:
        self.news: list[tuple[str, str]] = []

    def __call__(self, name: str, news: str) -> None:
        self.news.append((name, news))


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
async def supervisor(tmp_path: Path, told: Told) -> AsyncGenerator[Supervisor]:
    supervisor = Supervisor(tmp_path, told)
    yield supervisor
    await supervisor.stop()


def program(home: Path, name: str, code: str) -> Program:
    return Program(name, [sys.executable, "-u", "-c", code], home)


def said(home: Path, name: str) -> list[str]:
    try:
        return (home / "logs" / f"{name}.log").read_text().splitlines()
    except FileNotFoundError:
        return []


async def when(home: Path, name: str, lines: int) -> list[str]:
    async with asyncio.timeout(20):
        while len(said(home, name)) < lines:
            await asyncio.sleep(0.02)
    return said(home, name)


async def test_a_crashed_process_is_started_again(supervisor: Supervisor, tmp_path: Path, told: Told) -> None:
    supervisor.start(program(tmp_path, "crashes", "print('began'); raise SystemExit(7)"), stage=1)
    await when(tmp_path, "crashes", 2)
    assert told.news[0][1].startswith("ended with exit code 7, started again in 0.5 s")


class Clock:
    """Time as the supervisor has it, which a test can let pass."""

    def __init__(self) -> None:
        self.passed = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self.passed


async def pauses(
    supervisor: Supervisor, home: Path, told: Told, clock: Clock, lives: list[float]
) -> list[str]:
    """Kill a process after so many seconds each time; give what the supervisor said of the pauses that followed."""
    supervisor.start(program(home, "killed", "import os, time; print(os.getpid()); time.sleep(600)"), stage=1)
    for number, lived in enumerate(lives, start=1):
        pid = int((await when(home, "killed", number))[-1])
        clock.passed += lived
        psutil.Process(pid).kill()
    await when(home, "killed", len(lives) + 1)
    return [news.partition("; ")[0].removeprefix("ended with signal SIGKILL, ") for _, news in told.news]


async def test_the_pause_doubles_while_it_does_not_stay_up_and_begins_anew_after_healthy_work(
    supervisor: Supervisor, tmp_path: Path, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr("infra.embedded.supervisor.time", clock)
    were = await pauses(supervisor, tmp_path, told, clock, [0, 0, 20, 20])
    assert were == [f"started again in {pause} s" for pause in ("0.5", "1", "0.5", "0.5")]


async def test_the_mutant_that_asks_for_a_minute_of_healthy_work_is_noticed(
    supervisor: Supervisor, tmp_path: Path, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr("infra.embedded.supervisor.time", clock)
    monkeypatch.setattr("infra.embedded.supervisor.STEADY", 60.0)
    assert (await pauses(supervisor, tmp_path, told, clock, [20, 20]))[-1] == "started again in 1 s"


async def test_a_process_that_asks_for_it_is_started_again_at_once(
    supervisor: Supervisor, tmp_path: Path, told: Told
) -> None:
    supervisor.start(
        program(tmp_path, "asks", f"print('began'); raise SystemExit({RESTART_AT_ONCE})"), stage=1
    )
    await when(tmp_path, "asks", 3)
    assert told.news == []


async def test_waiting_for_a_process_that_crashes_ends_with_its_last_words(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    async def never() -> bool:
        return False

    supervisor.start(program(tmp_path, "fails", "raise SystemExit('no such table: orders')"), stage=1)
    with pytest.raises(
        EmbeddedError, match=r"fails stopped while starting: no such table: orders \(more in .*fails\.log"
    ):
        await supervisor.until(never, "fails", within=20)


async def test_stages_are_stopped_from_the_highest_down(tmp_path: Path, told: Told) -> None:
    code = """
import signal, sys, time, pathlib
def stop(*_):
    with pathlib.Path(sys.argv[0] if False else "{order}").open("a") as order: order.write("{name} ")
    sys.exit()
signal.signal(signal.SIGTERM, stop)
print("began")
time.sleep(600)
"""
    supervisor = Supervisor(tmp_path, told)
    for stage, name in enumerate(["server", "simulator", "worker"]):
        supervisor.start(
            program(tmp_path, name, code.format(order=tmp_path / "order", name=name)), stage=stage
        )
    for name in ["server", "simulator", "worker"]:
        await when(tmp_path, name, 1)
    await supervisor.stop()
    assert (tmp_path / "order").read_text() == "worker simulator server "
    assert orphans(tmp_path) == []


async def test_a_deaf_process_is_killed(tmp_path: Path, told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("infra.embedded.supervisor.PATIENCE", 0.5)
    supervisor = Supervisor(tmp_path, told)
    deaf = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('began'); time.sleep(600)"
    )
    supervisor.start(program(tmp_path, "deaf", deaf), stage=1)
    await when(tmp_path, "deaf", 1)
    (pid,) = [it.pid for it in orphans(tmp_path)]
    await supervisor.stop()
    assert orphans(tmp_path) == []
    assert not psutil.pid_exists(pid), "it was not waited for"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the next start finds them")
def test_children_end_with_a_killed_supervisor(tmp_path: Path) -> None:
    command = [*python("infra")[:-2], "-c", SUPERVISE, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=surroundings()) as parent:
        assert parent.stdout
        child = psutil.Process(int(parent.stdout.readline()))
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        child.wait(10)


async def test_orphans_are_found_by_their_home_alone_and_stopped(tmp_path: Path) -> None:
    sleep = [sys.executable, "-c", "import time; print(flush=True); time.sleep(600)"]
    orphan, stranger = [
        subprocess.Popen(sleep, env={**surroundings(), MARK: str(home)}, stdout=subprocess.PIPE)
        for home in (tmp_path, tmp_path / "other")
    ]
    try:
        for process in (orphan, stranger):
            assert process.stdout
            process.stdout.readline()
        assert [process.pid for process in orphans(tmp_path)] == [orphan.pid]
        assert await reap(tmp_path) == 1
        assert orphan.wait(10) == -signal.SIGTERM
        assert stranger.poll() is None
    finally:
        for process in (orphan, stranger):
            process.kill()
            process.wait()
            assert process.stdout
            process.stdout.close()


def test_a_program_does_not_start_when_its_parent_is_already_gone() -> None:
    command = [sys.executable, "-I", "-S", str(LAUNCH), "1", "15", "", sys.executable, "-c", "print('ran')"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "ran" not in done.stdout
    assert done.stderr == "the starting process is gone\n"
