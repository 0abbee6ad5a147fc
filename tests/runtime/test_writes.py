"""What is gathered is written in one go, in order, and a clash is told from the table that has it."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import asyncpg
import pytest

from infra.postgres.database import Database
from infra.postgres.writes import FEW, Table, Writes
from tests.shop.bench import Bench

FIRST = Table("first", (("id", "int"), ("said", "text")))
SECOND = Table("second", (("id", "int"),))


class Taken(Exception):
    """Something is there already."""


@pytest.fixture
async def database(bench: Bench) -> AsyncGenerator[Database]:
    database = bench.engine.databases["shop"]
    await database.execute("CREATE TABLE first (id int PRIMARY KEY, said text)")
    await database.execute("CREATE TABLE second (id int PRIMARY KEY)")
    yield database
    await database.execute("DROP TABLE first, second")


async def numbers(database: Database, table: str) -> list[int]:
    return [row["id"] for row in await database.fetch(f"SELECT id FROM {table} ORDER BY id")]


@pytest.mark.parametrize("many", [1, FEW, FEW + 1, 1_000])
async def test_few_rows_and_many_are_written_the_same(database: Database, many: int) -> None:
    writes = Writes()
    writes.insert(FIRST, [(number, f"it's {number}") for number in range(many)])
    writes.add("DELETE FROM second WHERE id = ANY($1::int[]) AND id < $2", [1, 2], 5)
    writes.insert(SECOND, [(7,), (8,)])
    async with database.transaction() as tx:
        await writes.send(tx)
    assert await numbers(database, "first") == list(range(many))
    assert await numbers(database, "second") == [7, 8]


async def test_nothing_gathered_is_nothing_written(database: Database) -> None:
    writes = Writes()
    writes.insert(FIRST, [])
    async with database.transaction() as tx:
        await writes.send(tx)
    assert await numbers(database, "first") == []


@pytest.mark.parametrize("many", [1, FEW + 1])
async def test_a_clash_is_told_from_the_first_table_that_has_one(database: Database, many: int) -> None:
    await database.execute("INSERT INTO first VALUES (0, 'was there')")
    await database.execute("INSERT INTO second VALUES (0)")
    writes = Writes()
    writes.insert(FIRST, [(number, "") for number in range(many)], lambda _: Taken("first"))
    writes.add("UPDATE second SET id = id + $1 WHERE id > $1", 100)
    writes.insert(SECOND, [(0,)], lambda _: Taken("second"))
    with pytest.raises(Taken, match="first"):
        async with database.transaction() as tx:
            await writes.send(tx)
    assert await numbers(database, "second") == [0]


async def test_a_clash_that_nobody_answers_is_the_databases_own(database: Database) -> None:
    await database.execute("INSERT INTO second VALUES (0)")
    writes = Writes()
    writes.insert(SECOND, [(0,)])
    with pytest.raises(asyncpg.UniqueViolationError):
        async with database.transaction() as tx:
            await writes.send(tx)
