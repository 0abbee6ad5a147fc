"""The bootstrap script on machines that lack something, and from places where others would get lost."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from infra.embedded.process import ROOT, surroundings

SCRIPT = ROOT / "triplane"
INSTALLS = 'case "$*" in *install.py*) echo installed; exit 1;; esac'
TOOLS = ["sh", "readlink", "dirname", "cksum"]


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A PATH with the few tools that the script may use, and no Python."""
    path = tmp_path / "bin"
    path.mkdir()
    for tool in TOOLS:
        found = shutil.which(tool)
        assert found
        (path / tool).symlink_to(found)
    return path


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A home whose environment is complete, and whose Python tells how it was called."""
    home = tmp_path / "home"
    for lock in (ROOT / "requirements.lock", ROOT / "tests" / "requirements.lock"):
        sums = subprocess.run(
            [str(shutil.which("cksum"))], input=lock.read_text(), capture_output=True, text=True, check=True
        )
        venv = home / f"venv-{sums.stdout.split()[0]}"
        (venv / "bin").mkdir(parents=True)
        (venv / "complete").touch()
        python = venv / "bin" / "python"
        python.write_text(f'#!/bin/sh\necho "{lock.parent.name} $TRIPLANE_HOME $PYTHONPATH $*"\n')
        python.chmod(0o755)
    return home


def run(
    *arguments: str, path: Path, script: Path = SCRIPT, cwd: Path | None = None, **env: str
) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": str(path), **env}
    return subprocess.run(
        [str(script), *arguments], env=environment, cwd=cwd, capture_output=True, text=True, check=False
    )


def fake_python(bare: Path, script: str) -> None:
    (bare / "python3").write_text(f"#!/bin/sh\n{script}\n")
    (bare / "python3").chmod(0o755)


@pytest.mark.parametrize("script", ["exit 127", 'case "$*" in *version_info*) exit 1;; esac'])
def test_without_a_suitable_python_it_says_which_one_is_needed(
    bare: Path, tmp_path: Path, script: str
) -> None:
    fake_python(bare, script)
    done = run("up", "--home", str(tmp_path / "home"), path=bare)
    assert done.returncode == 1
    assert "Python 3.11 or newer is needed" in done.stderr
    assert not (tmp_path / "home").exists()


def test_without_the_venv_module_it_says_how_to_get_it(bare: Path, tmp_path: Path) -> None:
    fake_python(bare, f'case "$*" in *ensurepip*) exit 1;; esac\nexec {sys.executable} "$@"')
    done = run("up", "--home", str(tmp_path / "home"), path=bare)
    assert done.returncode == 1
    assert "apt-get install python3-venv" in done.stderr


@pytest.mark.parametrize("arguments", [["--home"], ["up", "--home"], ["--home=", "up"]])
def test_a_home_without_a_name_is_a_usage_error(bare: Path, arguments: list[str]) -> None:
    done = run(*arguments, path=bare)
    assert (done.returncode, done.stderr) == (2, "triplane: --home needs a directory\n")


@pytest.mark.parametrize(
    "command",
    ["status", "down", "query a b", "parked list", "catalog --json", "--version", "--help", "query -h", ""],
)
def test_where_there_is_no_home_nothing_is_installed_for_a_command_that_needs_one(
    bare: Path, tmp_path: Path, command: str
) -> None:
    fake_python(bare, "echo installed")
    (tmp_path / "something else").mkdir()
    for name in ("hmoe", "something else"):
        done = run(*command.split(), "--home", str(tmp_path / name), path=bare)
        said = f"triplane: no Triplane home at {tmp_path}/{name}: `triplane up` makes one; is --home (or TRIPLANE_HOME) right?\n"
        assert (done.returncode, done.stdout, done.stderr) == (2, "", said)
    assert [it.name for it in tmp_path.iterdir() if it.name != "bin"] == ["something else"]
    assert not any((tmp_path / "something else").iterdir())


@pytest.mark.parametrize("command", ["up", "demo", "test", "bench"])
def test_what_begins_a_home_is_installed_for(bare: Path, tmp_path: Path, command: str) -> None:
    fake_python(bare, INSTALLS)
    done = run("--home", str(tmp_path / "home"), command, path=bare)
    assert (done.stdout, done.stderr) == ("installed\n", "")


@pytest.mark.parametrize(
    "command", ["catalog --json", "--version", "--help", "status --help", "query -h", ""]
)
def test_what_needs_no_home_is_installed_for_in_one_that_is_there_and_in_the_usual_one(
    bare: Path, tmp_path: Path, command: str
) -> None:
    fake_python(bare, INSTALLS)
    copy = tmp_path / "copy" / "triplane"
    (copy.parent / "tests").mkdir(parents=True)
    for file in ("triplane", "requirements.lock", "tests/requirements.lock"):
        shutil.copy(ROOT / file, copy.parent / file)
    (tmp_path / "secrets.json").touch()
    for arguments, script in ((["--home", str(tmp_path)], SCRIPT), ([], copy)):
        done = run(*arguments, *command.split(), path=bare, script=script)
        assert (done.stdout, done.stderr) == ("installed\n", "")


@pytest.mark.parametrize("given", ["TRIPLANE_KAFKA", "TRIPLANE_POSTGRES", "secrets.json"])
def test_any_command_is_installed_for_beside_servers_of_one_s_own_and_in_a_home_that_was_up(
    bare: Path, tmp_path: Path, given: str
) -> None:
    """A home of an earlier release lacks this one's environment."""
    fake_python(bare, INSTALLS)
    (tmp_path / given).touch()
    kafka, postgres = ("there" if given == name else "" for name in ("TRIPLANE_KAFKA", "TRIPLANE_POSTGRES"))
    done = run("status", "--home", str(tmp_path), path=bare, TRIPLANE_KAFKA=kafka, TRIPLANE_POSTGRES=postgres)
    assert (done.stdout, done.stderr) == ("installed\n", "")


@pytest.mark.parametrize("where", ["before", "after", "equals", "environment"])
def test_the_home_is_taken_from_everywhere(bare: Path, installed: Path, where: str) -> None:
    arguments = {
        "before": ["--home", str(installed), "status"],
        "after": ["status", "--json", "--home", str(installed)],
        "equals": ["status", f"--home={installed}"],
        "environment": ["status"],
    }[where]
    done = run(*arguments, path=bare, TRIPLANE_HOME=str(installed if where == "environment" else "/nowhere"))
    assert done.stdout == f"{ROOT.name} {installed} {ROOT} -P -m infra.cli {' '.join(arguments)}\n"


def test_it_works_from_elsewhere_and_through_links_with_a_relative_home(
    bare: Path, installed: Path, tmp_path: Path
) -> None:
    (tmp_path / "a link").symlink_to(SCRIPT)
    (tmp_path / "bin" / "another").symlink_to("../a link")
    done = run("status", "--home", "home", path=bare, script=tmp_path / "bin" / "another", cwd=tmp_path)
    assert done.stdout == f"{ROOT.name} {installed} {ROOT} -P -m infra.cli status --home home\n"


def test_tests_have_an_environment_of_their_own(bare: Path, installed: Path) -> None:
    done = run("test", "-k", "one", path=bare, TRIPLANE_HOME=str(installed))
    assert done.stdout.startswith("tests ")


def test_a_package_named_infra_in_the_current_directory_is_not_taken_for_ours(tmp_path: Path) -> None:
    (tmp_path / "infra" / "cli").mkdir(parents=True)
    for package in ("infra", "infra/cli"):
        (tmp_path / package / "__init__.py").write_text("raise SystemExit('wrong package')")
    command = [sys.executable, "-P", "-m", "infra.cli", "--help"]
    subprocess.run(command, cwd=tmp_path, env=surroundings(), check=True, stdout=subprocess.DEVNULL)
