"""Topics of the tests' own, to copy to."""

from __future__ import annotations

import time
from uuid import uuid4

from confluent_kafka import KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]


def new_topic(bootstrap: str, partitions: int) -> str:
    """Make a topic; returns once the broker describes it, which it does not do at once."""
    name = f"copy-{uuid4().hex}"
    client = AdminClient({"bootstrap.servers": bootstrap})
    client.create_topics([NewTopic(name, partitions)])[name].result(10)
    give_up = time.monotonic() + 10
    while True:
        try:
            client.describe_topics(TopicCollection([name]))[name].result(10)
        except KafkaException:
            assert time.monotonic() < give_up
            time.sleep(0.05)
        else:
            return name
