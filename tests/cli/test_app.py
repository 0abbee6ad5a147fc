"""Every way a command can end has its exit code, and none of them is a traceback."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import IO

import pytest
import typer

from infra.cli import app
from infra.cli.app import main
from infra.cli.errors import Code, CommandError
from infra.embedded import EmbeddedError
from infra.embedded.lock import HomeTaken
from infra.embedded.process import ROOT
from infra.settings import SettingsError

ENDS: list[tuple[BaseException, Code, str]] = [
    (CommandError("half of it", Code.PARTIAL), Code.PARTIAL, "half of it"),
    (SettingsError("TRIPLANE_KAFKA is missing"), Code.USAGE, "TRIPLANE_KAFKA is missing"),
    (HomeTaken(Path("/h"), 7), Code.REFUSED, "process 7"),
    (EmbeddedError("port 1 is in use"), Code.FAILED, "port 1 is in use"),
    (OSError(errno.ENOSPC, "No space left on device", "/h/x"), Code.FAILED, "the disk is full (/h/x)"),
    (PermissionError(errno.EACCES, "Permission denied", "/h"), Code.FAILED, "/h: Permission denied"),
    (RuntimeError("nobody thought of this"), Code.FAILED, "unexpected RuntimeError: nobody thought of this"),
    (KeyboardInterrupt(), Code.INTERRUPTED, ""),
]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TRIPLANE_HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(("error", "code", "message"), ENDS, ids=lambda value: type(value).__name__)
def test_an_error_ends_with_its_code_and_one_message(
    error: BaseException,
    code: Code,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(app, "application", failing(error))
    assert main(["anything"]) == code
    shown = capsys.readouterr().err
    assert message in shown
    assert "Traceback" not in shown


def failing(error: BaseException) -> Callable[[str | None], typer.Typer]:
    """An application whose only command fails so."""
    commands = typer.Typer(pretty_exceptions_enable=False)

    @commands.command()
    def anything() -> None:
        raise error

    commands.callback()(lambda: None)
    return lambda _: commands


def test_the_trace_of_the_unexpected_is_kept_in_the_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "application", failing(RuntimeError("unheard of")))
    main(["anything"])
    assert "RuntimeError: unheard of" in (home / "logs" / "triplane.log").read_text()


def test_an_unknown_command_is_a_usage_error_with_a_hint(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["staus"]) == Code.USAGE
    assert "Did you mean 'status'" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["status", "--help"])
def test_an_output_that_cannot_be_written_is_told_as_that(command: str) -> None:
    with Path("/dev/full").open("w") as full:
        done = shell(command, full)
    assert (done.returncode, done.stderr) == (
        Code.FAILED,
        "triplane: the output cannot be written: No space left on device\n",
    )


def test_a_reader_that_has_left_changes_nothing() -> None:
    read, write = os.pipe()
    os.close(read)
    done = shell("status", write)
    os.close(write)
    assert (done.returncode, done.stderr) == (Code.DONE, "")


def shell(command: str, output: IO[str] | int) -> subprocess.CompletedProcess[str]:
    """Run a command as a shell does."""
    arguments = [sys.executable, "-m", "infra.cli", command]
    return subprocess.run(arguments, cwd=ROOT, stdout=output, stderr=subprocess.PIPE, text=True, check=False)


@pytest.mark.parametrize("arguments", [[], ["status", "--jsn"], ["--home"], ["status", "--home="]])
def test_wrong_usage_ends_with_two(arguments: list[str]) -> None:
    assert main(arguments) == Code.USAGE


def test_every_command_module_has_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == Code.DONE
    shown = capsys.readouterr().out
    assert {"up", "down", "status", "test"} <= set(app.modules())
    assert all(f"\n  {name} " in shown for name in ("up", "down", "status", "test"))


def test_the_version_is_the_projects(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == Code.DONE
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert capsys.readouterr().out == f"triplane {project['version']}\n"


def test_a_command_that_needs_a_platform_says_in_which_home_none_is_up(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("TRIPLANE_KAFKA", raising=False)
    assert main(["parked", "list"]) == Code.USAGE
    said = capsys.readouterr().err
    assert (
        f"the platform is not up in {home}: start it with `triplane up`, name another home with --home"
        in said
    )


def test_status_of_a_home_where_nothing_runs(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "endpoints.json").write_text('{"http": "http://127.0.0.1:1"}')
    assert main(["status", "--json"]) == Code.DONE
    report = json.loads(capsys.readouterr().out)
    assert report == {"home": str(home), "state": "stopped", "pid": None, "processes": [], "endpoints": {}}


@pytest.mark.parametrize("place", [".", "not/made/yet"])
def test_down_where_nothing_runs_is_done(place: str, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["down", "--home", str(home / place)]) == Code.DONE
    assert "nothing is running" in capsys.readouterr().out
    assert not (home / "not").exists()
