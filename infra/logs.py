"""Structured logs: one JSON object a line on standard error or in a file, with what is bound (tenant, correlation)."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import structlog


def configure(process: str, file: Path | None = None) -> None:
    """Log as JSON lines, to the end of `file` where one is given; libraries' warnings too."""
    stream = sys.stderr
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        stream = file.open("a", encoding="utf-8", buffering=1)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(stream),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(process=process)
    logging.basicConfig(
        stream=stream,
        level=logging.ERROR,
        format='{"level":"%(levelname)s","logger":"%(name)s","event":"%(message)s"}',
    )
