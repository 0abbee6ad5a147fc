"""What operators have discarded from a consumer's topics: every rebuild and replay leaves it out."""

from __future__ import annotations

from collections.abc import Iterable

from infra.kafka.admin import Topic
from infra.kafka.record import Spot
from infra.postgres.database import Database


async def discarded(operations: Database, consumer: str, topics: Iterable[Topic]) -> frozenset[Spot]:
    """Give what was discarded from `consumer`, over `operations` (the schema of that name).

    A topic that was made anew has another id: what was discarded from its namesake says nothing of it.
    """
    names = {topic.id: topic.name for topic in topics}
    rows = await operations.fetch(
        'SELECT topic_id, partition, "offset" FROM overlays WHERE consumer = $1 AND topic_id = ANY($2::uuid[])',
        consumer,
        list(names),
    )
    return frozenset((names[row["topic_id"]], row["partition"], row["offset"]) for row in rows)
