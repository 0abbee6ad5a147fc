"""Structured logs: one JSON object a line on standard error or in a file, with what is bound (tenant, correlation)."""

from __future__ import annotations

import logging
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

import structlog

_LIBRARIES: Final = '{"level":"%(levelname)s","logger":"%(name)s","event":"%(message)s"}'


def configure(process: str) -> None:
    """Log as JSON lines; libraries' warnings too."""
    _to(sys.stderr, for_ever=True)
    structlog.contextvars.bind_contextvars(process=process)
    logging.basicConfig(stream=sys.stderr, level=logging.ERROR, format=_LIBRARIES)


@contextmanager
def logged_to(path: Path) -> Generator[None]:
    """Log to a file for a while: what a command shows is for people."""
    path.parent.mkdir(parents=True, exist_ok=True)
    before = structlog.get_config()
    with path.open("a", encoding="utf-8") as file:
        _to(file, for_ever=False)
        libraries = logging.StreamHandler(file)
        libraries.setFormatter(logging.Formatter(_LIBRARIES))
        logging.getLogger().addHandler(libraries)
        try:
            yield
        finally:
            logging.getLogger().removeHandler(libraries)
            structlog.configure(**before)


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
