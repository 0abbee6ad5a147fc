"""The bootstrap script on machines that lack something, and from places where others would get lost."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from infra.embedded.process import ROOT, surroundings

SCRIPT = ROOT / "triplane"
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
