"""Makes the virtual environment that a lock file describes; knows nothing but the standard library.

Run as a script by whatever Python is there: `install.py ROOT HOME VENV LOCK`. The environment counts once it holds the
file `complete`; without it, the next run starts over.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

MEGABYTES_NEEDED = 600
LAUNCH = Path(__file__).with_name("launch.py")
PIP = [
    *("-I", "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--progress-bar", "off"),
    *("--no-compile", "--no-deps", "--require-hashes", "--only-binary", ":all:"),
]
BUILDER, BUILT = "setuptools", "localstripe"
"""The one package without a wheel (a test tool) is built by the locked setuptools, not by one that pip would fetch."""
CONSOLE_SCRIPT = """#!{python}
import sys
from infra.cli import main
sys.exit(main())
"""


def install(root: Path, home: Path, venv: Path, lock: Path) -> None:
    """Install `lock` into `venv`; waits while another process does the same."""
    # others may pass through, into what belongs to the user that the database runs as; they cannot look around
    home.mkdir(mode=0o711, parents=True, exist_ok=True)
    with (home / "install.lock").open("w") as guard:
        try:
            fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another start is installing; waiting for it")
            fcntl.flock(guard, fcntl.LOCK_EX)
        if not (venv / "complete").exists() or not os.access(venv / "bin" / "python", os.X_OK):
            make(root, home, venv, lock)


def make(root: Path, home: Path, venv: Path, lock: Path) -> None:
    """Make the environment from nothing."""
    free = shutil.disk_usage(home).free >> 20
    if free < MEGABYTES_NEEDED:
        refuse(
            f"{home} has {free} MB free, {MEGABYTES_NEEDED} MB are needed: free space, or choose another --home"
        )
    shutil.rmtree(venv, ignore_errors=True)
    run([sys.executable, "-m", "venv", str(venv)], home)
    requirements = re.split(r"^(?=[a-z0-9])", lock.read_text("utf-8"), flags=re.MULTILINE)[1:]
    say(f"installing {len(requirements)} locked packages (first start only)")
    python = str(venv / "bin" / "python")
    downloads = home / "downloads"  # an interrupted start goes on from here
    pip = [python, *PIP, "--cache-dir", str(downloads)]
    for requirement in requirements:
        if requirement.startswith(f"{BUILDER}=="):
            builder = venv / "builder.lock"
            builder.write_text(requirement, "utf-8")
            run([*pip, "-r", str(builder)], home)
    run([*pip, "--no-binary", BUILT, "--no-build-isolation", "-r", str(lock)], home, len(requirements))
    site = next((venv / "lib").glob("python3*")) / "site-packages"
    (site / "triplane.pth").write_text(f"{root}\n", "utf-8")
    console = venv / "bin" / "triplane"
    console.write_text(CONSOLE_SCRIPT.format(python=python), "utf-8")
    console.chmod(0o755)
    shutil.rmtree(downloads, ignore_errors=True)
    (venv / "complete").touch()


def run(command: list[str], home: Path, packages: int = 0) -> None:
    """Run one step with its output in the install log, counting the packages as they come."""
    path = home / "logs" / "install.log"
    path.parent.mkdir(exist_ok=True)
    path.touch(mode=0o600)
    # a killed start takes its steps with it, so that none of them writes into the next one's environment
    tied = [sys.executable, "-I", str(LAUNCH), str(os.getpid()), str(int(signal.SIGKILL)), ""]
    seen = 0
    with (
        path.open("w", encoding="utf-8") as log,
        subprocess.Popen(
            [*tied, *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        ) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            log.write(line)
            if packages and line.startswith("Collecting "):
                seen += 1
                progress(f"{seen}/{packages} {line.split()[1]}", last=False)
            elif packages and line.startswith("Installing collected packages"):
                progress("unpacking", last=True)
    if process.returncode:
        output = path.read_text("utf-8", errors="replace")
        if "No space left on device" in output:
            disk_full(home)
        lines = output.splitlines()
        words = [line.strip() for line in lines if "ERROR" in line or "rror:" in line] or lines[-3:]
        refuse(
            f"installation failed: {' | '.join(words[-3:])}\n  all of it is in {path}; start again to go on"
        )


def progress(text: str, *, last: bool) -> None:
    """On a terminal one line that changes; elsewhere a line for every tenth package and the end."""
    if sys.stderr.isatty() and not os.environ.get("NO_COLOR"):
        print(f"\r  {text:<60.60}", end="\n" if last else "", file=sys.stderr, flush=True)
    elif last or text.partition("/")[0].endswith("0"):
        say(f"  {text}")


def say(text: str) -> None:
    """A line for the user."""
    print(text, file=sys.stderr, flush=True)


def disk_full(home: Path) -> None:
    """End with the remedy for a full disk."""
    refuse(f"the disk of {home} is full: free space, or choose another --home; then start again")


def refuse(text: str) -> None:
    """End with a message."""
    sys.exit(f"triplane: {text}")


if __name__ == "__main__":
    places = [Path(argument) for argument in sys.argv[1:5]]
    try:
        install(*places)
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            disk_full(places[1])
        refuse(
            f"{error.filename or places[1]}: {error.strerror}; choose a directory that may be written, with --home"
        )
