"""A worker process as a FastStream application: FastStream owns start, signals and stop, the engine records and commits.

FastStream's own subscribers acknowledge before or without the database (see decision 0003), so none is registered.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

from faststream import FastStream
from faststream.kafka import KafkaBroker


async def run(bootstrap: str, work: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    """Run `work` until it ends or the process is told to stop; the event that it is given says so.

    Fails when no broker answers at the start: whoever supervises the process tries again.
    """
    stop = asyncio.Event()

    @asynccontextmanager
    async def lifespan() -> AsyncGenerator[None]:
        working = asyncio.ensure_future(work(stop))
        working.add_done_callback(lambda _: application.exit())
        try:
            yield
        finally:
            stop.set()
            await working

    broker = KafkaBroker(
        bootstrap, client_id="triplane.work", consumer_only=True, allow_auto_create_topics=False, logger=None
    )
    application = FastStream(broker, lifespan=lifespan, logger=None)
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, application.exit)
    await application.run()
