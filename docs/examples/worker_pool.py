"""Pictures in a plain asyncio worker pool, without Redis: `python worker_pool.py INBOX OUTBOX`.

Jobs are files: INBOX/order-17.jsonl with one picture a line (fields of ImageRequest) becomes the directory
OUTBOX/order-17, and the file is removed once all of it has ended. Killed at any moment, the pool goes on where it was
when it is started again: the job's file is still there, and the journal in its directory knows what is paid for.
"""

import asyncio
import json
import logging
import signal
import sys
from collections.abc import Iterable
from pathlib import Path

from krea_async import KreaError, KreaSession

log = logging.getLogger(__name__)

WORKERS = 20  # jobs at a time; the session keeps to the gateway's limits by itself


async def work(session: KreaSession, jobs: "asyncio.Queue[Path]", outbox: Path) -> None:
    """One worker: job after job, until it is cancelled. A job that cannot be done stays in the inbox."""
    while True:
        job = await jobs.get()
        try:
            rows = [json.loads(line) for line in job.read_text().splitlines()]
            report = await session.render(rows, outbox / job.stem)
        except (KreaError, ValueError) as error:
            log.warning("%s is left in the inbox: %s", job.stem, error)
        else:
            log.info("%s: %d saved, %d failed", job.stem, report.saved + report.already_saved, report.failed)
            if not report.left:  # else it was stopped early, such as for want of credits: next time
                job.unlink()
        finally:
            jobs.task_done()


async def main(files: Iterable[Path], outbox: Path) -> None:
    """Do all jobs. After a SIGTERM: finish what is paid for, and leave the rest for the next time."""
    jobs: asyncio.Queue[Path] = asyncio.Queue()
    for job in files:
        jobs.put_nowait(job)
    async with KreaSession() as session, asyncio.TaskGroup() as pool:
        workers = [pool.create_task(work(session, jobs, outbox)) for _ in range(WORKERS)]
        done = pool.create_task(jobs.join())
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, done.cancel)
        await asyncio.wait({done})
        for worker in workers:  # those in the middle of a batch still follow and save what is in flight
            worker.cancel()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    asyncio.run(main(sorted(Path(sys.argv[1]).glob("*.jsonl")), Path(sys.argv[2])))
