"""A consumer's first start is explicit: where it begins in every partition is written down before it runs.

Projections and deciders begin at the beginning, sagas and outside effects at the end: a new flow must not act on the
past. A partition that is added later begins at 0.
"""

from __future__ import annotations

from infra.errors import PositionLost
from infra.kafka.admin import Admin, Topic
from infra.postgres.database import Database
from infra.runtime.catalog import Wiring


async def register(
    database: Database, admin: Admin, wiring: Wiring, generation: int, topics: dict[str, Topic]
) -> None:
    """Record the start offsets of a consumer in one transaction, unless they are there already.

    A stored position of another topic of the same name is refused: the topic was made anew, and nobody but an operator
    can say what that means.
    """
    mine = [topics[name] for name in wiring.topics]
    rows = await database.fetch(
        "SELECT topic, topic_id, partition FROM checkpoints WHERE consumer = $1 AND generation = $2",
        wiring.name,
        generation,
    )
    known = {(row["topic"], row["partition"]): row["topic_id"] for row in rows}
    for topic in mine:
        if any(topic_id != topic.id for (name, _), topic_id in known.items() if name == topic.name):
            raise PositionLost(
                f"{wiring.name}: the topic {topic.name} is not the one it was registered with; restore the old topic, "
                "or give the consumer a new name"
            )
    missing = [
        (topic, partition)
        for topic in mine
        for partition in range(topic.partitions)
        if (topic.name, partition) not in known
    ]
    if not missing:
        return
    starts = await admin.offsets(mine, end=wiring.first_start == "end")
    seen_topics = {name for name, _ in known}
    async with database.transaction() as tx:
        await tx.executemany(
            """INSERT INTO checkpoints (consumer, generation, topic_id, topic, partition, start_offset, next_offset)
               VALUES ($1, $2, $3, $4, $5, $6, $6) ON CONFLICT DO NOTHING""",
            [
                (
                    wiring.name,
                    generation,
                    topic.id,
                    topic.name,
                    partition,
                    0 if topic.name in seen_topics else starts[topic.name, partition],
                )
                for topic, partition in missing
            ],
        )
