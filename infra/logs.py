"""Structured logs: one JSON object a line on standard error or in a file, with what is bound (tenant, correlation)."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

import structlog

from infra.postgres.database import TRANSIENT

SAYS_AGAIN_S: Final = 10.0
"""So long a library's message is not said again: every client says over and over that a broker is away."""
KEPT: Final = 1_000
"""So many different messages are remembered."""


def configure(process: str) -> None:
    """Log as JSON lines; libraries' warnings too."""
    _to(sys.stderr, for_ever=True)
    structlog.contextvars.bind_contextvars(process=process)
    logging.basicConfig(handlers=[_libraries(sys.stderr)], level=logging.ERROR)


@contextmanager
def logged_to(path: Path) -> Generator[None]:
    """Log to a file for a while: what a command shows is for people."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    before = structlog.get_config()
    with path.open("a", encoding="utf-8") as file:
        _to(file, for_ever=False)
        libraries = _libraries(file)
        logging.getLogger().addHandler(libraries)
        try:
            yield
        finally:
            logging.getLogger().removeHandler(libraries)
            structlog.configure(**before)


def _libraries(stream: IO[str]) -> logging.Handler:
    """What libraries log, in the form of ours."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[
                structlog.stdlib.add_log_level,
                structlog.stdlib.add_logger_name,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
            ],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                _brief,
                structlog.processors.format_exc_info,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    handler.addFilter(_NowAndThen())
    return handler


def _brief(_: object, __: str, line: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Write what passes by itself without its stack."""
    error = line.get("exc_info")
    if isinstance(error, tuple) and isinstance(error[1], TRANSIENT):
        del line["exc_info"]
        line["error"] = repr(error[1])
    return line


class _NowAndThen(logging.Filter):
    """Lets a message pass once in `SAYS_AGAIN_S`, whatever its arguments are."""

    def __init__(self) -> None:
        super().__init__()
        self._said: dict[tuple[str, str], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        what, now = (record.name, str(record.msg)), time.monotonic()
        if now - self._said.get(what, -SAYS_AGAIN_S) < SAYS_AGAIN_S:
            return False
        if len(self._said) > KEPT:
            self._said.clear()
        self._said[what] = now
        return True


def _to(stream: IO[str], *, for_ever: bool) -> None:
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(stream),  # type: ignore[arg-type] # any text stream
        cache_logger_on_first_use=for_ever,
    )
