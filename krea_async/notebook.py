"""A batch in a Jupyter notebook, where `await` works at the top of a cell: a progress bar that renders there.

    from krea_async.notebook import show, showing

    async with KreaSession() as session:
        report = await show(session.render(prompts, "out/"))
    report                                                      # a table

    async with session.render(prompts, "out/") as batch:
        async for image in showing(batch):                      # the same bar, and each result
            ...

Outside of a notebook the progress is a line now and then, on standard error.
"""

import asyncio
import importlib
import sys
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager
from typing import Any, Final

from krea_async.batch.run import Batch
from krea_async.display import progress_html
from krea_async.meter import Figures, Meter, described
from krea_async.results import BatchReport, GeneratedImage

NOTEBOOK_EVERY_S: Final = 0.5
LINES_EVERY_S: Final = 5.0

Shown = Callable[[Figures, bool], object]
"""Shows the figures; True: for the last time."""


async def show(batch: Batch, *, rows: int | None = None) -> BatchReport:
    """Run `batch` to its end beside a progress bar. rows: of its list, where that does not say how long it is.

    Raises what the batch raises. A cell that is interrupted cancels the batch: what is in flight is still saved.
    """
    async with batch, aclosing(showing(batch, rows=rows)) as images:
        async for _ in images:
            pass
    return batch.report


async def showing(batch: Batch, *, rows: int | None = None) -> AsyncGenerator[GeneratedImage]:
    """The results of a batch that is entered already, as they finish, beside a progress bar."""
    meter = Meter(rows)
    with _shown(batch, meter):
        async for image in batch:
            meter.ended(image)
            yield image


@contextmanager
def _shown(batch: Batch, meter: Meter) -> Iterator[None]:
    """Show the figures now and then by a timer: a generator that is left half-way must not leave a task behind."""
    loop = asyncio.get_running_loop()
    every_s, put = (LINES_EVERY_S, _line) if _kernel() is None else (NOTEBOOK_EVERY_S, _bar())
    timer: asyncio.TimerHandle | None = None

    def tick() -> None:
        nonlocal timer
        timer = loop.call_later(every_s, tick)
        put(meter.read(batch), False)

    tick()
    try:
        yield
    finally:
        if timer is not None:
            timer.cancel()
        put(meter.read(batch), True)


def _kernel() -> Any | None:  # noqa: ANN401 - IPython's, which need not be installed
    """The shell of the notebook that this runs in; None elsewhere. Imports nothing: where it runs, it is loaded."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return shell if hasattr(shell, "kernel") else None


def _bar() -> Shown:
    """A display that is updated in its place."""
    display: Any = importlib.import_module("IPython.display")  # only where it runs
    handle = display.DisplayHandle()
    shown = False

    def put(figures: Figures, over: bool) -> None:
        nonlocal shown
        html = display.HTML(progress_html(figures, over=over))
        if shown:
            handle.update(html)
        else:
            handle.display(html)
        shown = True

    return put


def _line(figures: Figures, over: bool) -> None:  # noqa: ARG001 - the last line is one like the others
    print(described(figures), file=sys.stderr)  # noqa: T201 - what it is for
