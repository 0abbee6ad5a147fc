"""The bare chain: consume, commit a row, produce; consume, commit the row of the read model. Nothing is around it.

`python -m tests.benchmarks.chain front` or `back`: a process each. What has arrived together is committed together and
sent together, as whoever wants it fast would write it; nothing is remembered, checked, ordered or tried again.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any, Final
from uuid import UUID

import asyncpg
import uvloop
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from infra.settings import Settings

COMMANDS: Final = "chain.commands"
EVENTS: Final = "chain.events"
TABLES: Final = """
    CREATE SCHEMA IF NOT EXISTS baseline;
    DROP TABLE IF EXISTS baseline.account, baseline.progress;
    CREATE TABLE baseline.account (
        tenant text NOT NULL, account_id uuid, person_id uuid, opened_at timestamptz DEFAULT now(),
        PRIMARY KEY (tenant, account_id));
    CREATE TABLE baseline.progress (
        tenant text NOT NULL, person_id uuid, account_id uuid, shown_at timestamptz DEFAULT now(),
        PRIMARY KEY (tenant, person_id))
"""
WRITES: Final = {
    "front": "baseline.account (tenant, account_id, person_id)",
    "back": "baseline.progress (tenant, account_id, person_id)",
}


async def link(side: str) -> None:
    """Be one link of the chain until the process is told to end."""
    settings = Settings.load()
    connection = await asyncpg.connect(settings.postgres)
    add = await connection.prepare(
        f"INSERT INTO {WRITES[side]} SELECT * FROM unnest($1::text[], $2::uuid[], $3::uuid[]) ON CONFLICT DO NOTHING"
    )
    producer: Any = AIOKafkaProducer(bootstrap_servers=settings.kafka, acks="all", linger_ms=0)
    await producer.start()
    consumer: Any = AIOKafkaConsumer(
        COMMANDS if side == "front" else EVENTS,
        bootstrap_servers=settings.kafka,
        group_id=f"chain.{side}",
        auto_offset_reset="latest",
        enable_auto_commit=False,
    )
    await consumer.start()
    while not consumer.assignment():
        await consumer.getmany(timeout_ms=50)
    await consumer.seek_to_end()
    for place in consumer.assignment():
        await consumer.position(place)
    print("ready", flush=True)
    while True:
        fetched = [record for found in (await consumer.getmany(timeout_ms=500)).values() for record in found]
        if not fetched:
            continue
        bodies = [json.loads(record.value) for record in fetched]
        await add.fetch(
            [dict(record.headers)["ce_tenantid"].decode() for record in fetched],
            [UUID(body["account_id"]) for body in bodies],
            [UUID(body["person_id"]) for body in bodies],
        )
        if side == "front":
            sent = [
                await producer.send(EVENTS, record.value, record.key, headers=list(record.headers))
                for record in fetched
            ]
            await asyncio.gather(*sent)


if __name__ == "__main__":
    uvloop.run(link(*sys.argv[1:]))
