"""Structured logs: one JSON object a line on standard error, with what is bound to the context (tenant, correlation)."""

from __future__ import annotations

import logging
import sys

import structlog


def configure(process: str) -> None:
    """Log as JSON lines; libraries' warnings too."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(process=process)
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.ERROR,
        format='{"level":"%(levelname)s","logger":"%(name)s","event":"%(message)s"}',
    )
