"""Passwords and keys of a home: made at its first start, kept in one file that only its owner reads."""

from __future__ import annotations

import base64
import json
from secrets import token_bytes, token_hex
from typing import TYPE_CHECKING

from infra.embedded.files import write_atomically
from infra.settings import MASTER_KEY_BYTES, read_strings

if TYPE_CHECKING:
    from pathlib import Path


def ensure_secrets(home: Path) -> dict[str, str]:
    """The secrets of `home`; what is missing is made, what is there never changes."""
    path = home / "secrets.json"
    known = read_strings(path)
    made = {
        "master_key": base64.b64encode(token_bytes(MASTER_KEY_BYTES)).decode(),
        "postgres_password": token_hex(16),
        "stripe_api_key": f"sk_test_{token_hex(16)}",
        "stripe_webhook_secret": f"whsec_{token_hex(16)}",
    }
    secrets = {**made, **known}
    if secrets != known:
        write_atomically(path, json.dumps(secrets, indent=2))
    return secrets
