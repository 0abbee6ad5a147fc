"""Payments decides what is charged, what goes back, and what the provider's answers mean."""

from __future__ import annotations

from handlers import Worker

__all__ = ["worker"]

worker = Worker("payments")
