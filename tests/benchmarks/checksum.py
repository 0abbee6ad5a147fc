"""The same digest of a set of rows, from a table and from Python: every column of every row, in no order."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from hashlib import md5
from typing import Final

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
Digest = tuple[int, int]
"""How many rows, and the sum of their digests."""


def digest_query(table: str, columns: Iterable[str], moments: Iterable[str] = ()) -> str:
    """Write the query for the digest of a table's rows of the benchmark's tenants: `columns` as text, then `moments` in microseconds."""
    texts = [f'"{name}"::text' for name in columns]
    texts += [f'(extract(epoch FROM "{name}") * 1000000)::bigint::text' for name in moments]
    row = " || '|' || ".join(texts)
    return f"SELECT count(*), coalesce(sum(('x' || left(md5({row}), 10))::bit(40)::bigint), 0)::bigint FROM {table} WHERE tenant LIKE 'bench-%'"


def digest(rows: Iterable[tuple[object, ...]]) -> Digest:
    """Give the digest of rows; moments in microseconds, as `digest_query` does."""
    count = total = 0
    for row in rows:
        text = "|".join(
            [
                str((it - EPOCH) // timedelta(microseconds=1)) if isinstance(it, datetime) else str(it)
                for it in row
            ]
        )
        total += int(md5(text.encode(), usedforsecurity=False).hexdigest()[:10], 16)
        count += 1
    return count, total
