"""Where this session's servers have their jars, so that nobody downloads them again."""

from __future__ import annotations

from pathlib import Path

from infra.settings import home_path


def software() -> Path:
    """The directory of downloads."""
    home = home_path()
    return next(
        place for place in (home / "software", home.parent / "software") if (place / "kafka").exists()
    )
