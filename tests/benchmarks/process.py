"""The process of a baseline: `python -m tests.benchmarks.process CASE NAME`.

It reads its job from standard input, writes its marks to standard output, and waits to be ended.
"""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import asdict

import uvloop

from tests.benchmarks.baseline import Job
from tests.benchmarks.cases import CASES


async def main(case: str, name: str) -> None:
    """Do the job, on the same event loop as ours."""
    given = json.loads(sys.stdin.readline())
    given["begin_at"] = {int(partition): offset for partition, offset in given["begin_at"].items()}
    job = Job(**given)
    marks = await CASES[case].baselines[name](job)
    print(json.dumps({"marks": asdict(marks), "next": job.next}), flush=True)
    # Whoever measures reads this process's times once more before it ends.
    await asyncio.sleep(60)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(*sys.argv[1:]))
