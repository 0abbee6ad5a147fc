"""Makes the virtual environment that a lock file describes; knows nothing but the standard library.

Run as a script by whatever Python is there: `install.py ROOT HOME VENV LOCK`. The environment counts once it holds the
file `complete`; without it, the next run starts over.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

MEGABYTES_NEEDED = 600
CONSOLE_SCRIPT = """#!{python}
import sys
from infra.cli import main
sys.exit(main())
"""


def install(root: Path, home: Path, venv: Path, lock: Path) -> None:
    """Install `lock` into `venv`; waits while another process does the same."""
    home.mkdir(mode=0o711, parents=True, exist_ok=True)
    with (home / "install.lock").open("w") as guard:
        try:
            fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another start is installing; waiting for it")
            fcntl.flock(guard, fcntl.LOCK_EX)
        if (venv / "complete").exists() and os.access(venv / "bin" / "python", os.X_OK):
            return
        free = shutil.disk_usage(home).free >> 20
        if free < MEGABYTES_NEEDED:
            refuse(
                f"{home} has {free} MB free and {MEGABYTES_NEEDED} MB are needed: free space, or choose another --home"
            )
        shutil.rmtree(venv, ignore_errors=True)
        run([sys.executable, "-m", "venv", str(venv)], home, 0)
        python = str(venv / "bin" / "python")
        cache = home / "downloads"  # an interrupted start goes on from here
        packages = sum("==" in line for line in lock.read_text("utf-8").splitlines())
        say(f"installing {packages} locked packages (first start only)")
        pip = [
            python,
            "-I",
            "-m",
            "pip",
            "install",
            "--disable-pip-version-check",
            "--no-input",
            "--no-compile",
        ]
        pip += ["--cache-dir", str(cache), "--progress-bar", "off", "--only-binary", ":all:"]
        pip += ["--no-deps", "--require-hashes", "-r", str(lock)]
        run(pip, home, packages)
        packages_directory = next((venv / "lib").glob("python3*")) / "site-packages"
        (packages_directory / "triplane.pth").write_text(f"{root}\n", "utf-8")
        console = venv / "bin" / "triplane"
        console.write_text(CONSOLE_SCRIPT.format(python=python), "utf-8")
        console.chmod(0o755)
        shutil.rmtree(cache, ignore_errors=True)
        (venv / "complete").touch()


def run(command: list[str], home: Path, packages: int) -> None:
    """Run one step with its output in the install log, counting the packages as they come."""
    path = home / "logs" / "install.log"
    path.parent.mkdir(exist_ok=True)
    seen = 0
    tied = [
        sys.executable,
        "-I",
        str(Path(__file__).with_name("launch.py")),
        str(os.getpid()),
        str(int(signal.SIGKILL)),
        "",
    ]
    with (
        path.open("w", encoding="utf-8") as log,
        subprocess.Popen(
            [*tied, *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        ) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            log.write(line)
            if line.startswith("Collecting "):
                seen += 1
                progress(f"{seen}/{packages} {line.split()[1]}", last=False)
            elif line.startswith("Installing collected packages"):
                progress("unpacking", last=True)
    if process.returncode:
        output = path.read_text("utf-8", errors="replace")
        if "No space left on device" in output:
            refuse(f"the disk of {home} is full: free space, or choose another --home; then start again")
        words = [
            line.strip() for line in output.splitlines() if "ERROR" in line or "rror:" in line
        ] or output.splitlines()[-3:]
        refuse(
            f"installation failed: {' | '.join(words[-3:])}\n  the whole of it is in {path}; start again to go on"
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


def refuse(text: str) -> None:
    """End with a message."""
    sys.exit(f"triplane: {text}")


if __name__ == "__main__":
    try:
        install(*(Path(argument) for argument in sys.argv[1:5]))
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            refuse(
                f"the disk of {sys.argv[2]} is full: free space, or choose another --home; then start again"
            )
        refuse(
            f"{error.filename or 'the state home'}: {error.strerror}; give this user a directory it may write, with --home DIR"
        )
