"""The one arrow, and each driver in its home: import-linter's contracts hold, and would notice if they did not."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from infra.embedded.process import ROOT
from tests.architecture.tree import PACKAGES

MUTANTS = {
    "events/identity.py": "import handlers",
    "sagas/activation.py": "import projections",
    "handlers/accounts.py": "import infra.settings",
    "infra/http/app.py": "import aiokafka",
    "infra/stripe/provider.py": "import asyncpg",
    "infra/cli/up.py": "import stripe",
    "infra/runtime/messages/ids.py": "import infra.runtime.running.workers",
}


def lint_imports(root: Path, cache: Path) -> subprocess.CompletedProcess[str]:
    program = str(Path(sys.executable).with_name("lint-imports"))
    command = [program, "--no-logo", "--cache-dir", str(cache)]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)


def test_the_arrow_holds(tmp_path: Path) -> None:
    done = lint_imports(ROOT, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 broken" in done.stdout


def test_every_way_to_break_it_is_noticed(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    shutil.copy(ROOT / "pyproject.toml", tree)
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tree / package, ignore=shutil.ignore_patterns("__pycache__"))
    for path, line in MUTANTS.items():
        module = tree / path
        module.write_text(f"{module.read_text('utf-8')}\n{line}\n", "utf-8")
    done = lint_imports(tree, tmp_path / "cache")
    assert done.returncode == 1, done.stdout + done.stderr
    assert " 0 kept" in done.stdout, (
        "a contract in pyproject.toml notices none of these imports; add one that it must"
    )
    for path, line in MUTANTS.items():
        importer = path.removesuffix(".py").replace("/", ".")
        assert f"{importer} -> " in done.stdout, f"{line} in {path} went unnoticed"
