"""In a real Jupyter kernel: `await` at the top of a cell, a bar that moves there, results that show themselves."""

import base64
import io
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Final

import anyio
import nbformat
import pytest
from nbclient import NotebookClient
from PIL import Image
from until import until

from krea_async import KreaSession
from krea_async.notebook import show, showing
from krea_async.sandbox import Durations, Sandbox

pytestmark = pytest.mark.anyio

SessionOf = Callable[..., KreaSession]

V4: Final[Any] = nbformat.v4  # its functions have no types
SETTINGS: Final = """
from krea_async import KreaSession, PollPolicy
from krea_async.notebook import show, showing
soon = PollPolicy(shortest_s=0.05, longest_s=0.1, window_s=0.01)
prompts = [f"fox {n} <script>alert(1)</script>" for n in range(6)]
"""


class Notebook(NotebookClient):
    """Runs cells in a kernel. updates: the HTML of every display, as it came."""

    updates: Final[list[str]] = []

    def process_message(self, msg: dict[str, Any], cell: Any, cell_index: int) -> Any:
        if msg["msg_type"] in {"display_data", "update_display_data"}:
            self.updates.append(msg["content"]["data"]["text/html"])
        return super().process_message(msg, cell, cell_index)

    async def outputs(self, code: str) -> list[dict[str, Any]]:
        """What a cell shows."""
        cell = V4.new_code_cell(code)
        self.nb.cells.append(cell)
        await self.async_execute_cell(cell, len(self.nb.cells) - 1)
        return list(cell.outputs)


@pytest.fixture
async def notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Sandbox, Notebook]]:
    """A gateway, and a client with a kernel that runs beside it."""
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    (tmp_path / "work").mkdir()
    async with Sandbox(durations=Durations.fixed(0.6)) as sandbox:
        monkeypatch.setenv("EVOLINK_API_KEY", sandbox.key)
        monkeypatch.setenv("EVOLINK_BASE_URL", sandbox.url)
        client = Notebook(
            V4.new_notebook(),
            timeout=60,
            allow_errors=True,
            resources={"metadata": {"path": str(tmp_path / "work")}},
        )
        async with client.async_setup_kernel():
            client.updates.clear()
            yield sandbox, client


async def test_a_notebook_shows_progress_pictures_and_reports(notebook: tuple[Sandbox, Notebook]) -> None:
    sandbox, client = notebook
    assert await client.outputs(SETTINGS) == []

    sandbox.script("create", ("fail", "content_policy_violation"))
    bar, report = await client.outputs(
        "async with KreaSession(polling=soon) as session:\n"
        "    report = await show(session.render(prompts, 'out/'))\n"
        "report",
    )
    html = bar["data"]["text/html"]
    assert re.search(r'<progress [^>]*max="6" value="6"></progress> 5/6 saved, 1 failed', html)
    assert html.endswith("ended</div>")
    assert "<table>" in report["data"]["text/html"]
    assert "content_policy_violation" in report["data"]["text/html"]
    assert report["data"]["text/plain"].startswith("BatchReport(saved=5")

    (shown,) = await client.outputs(
        "async with KreaSession(polling=soon) as session:\n"
        "    image = await session.generate('a fox', quality='2K', size='16:9')\n"
        "image",
    )
    mime = next(mime for mime in shown["data"] if mime.startswith("image/"))
    with Image.open(io.BytesIO(base64.b64decode(shown["data"][mime]))) as picture:
        assert picture.size in {(2688, 1472), (1024, 561)}
    assert shown["data"]["text/plain"].startswith("GeneratedImage(index=None")

    bar, seen, failed = await client.outputs(
        "images = []\n"
        "async with KreaSession(polling=soon) as session:\n"
        "    async with session.render((prompt for prompt in prompts), 'out/') as batch:\n"
        "        async for image in showing(batch):\n"
        "            images.append(image)\n"
        "print(sorted(image.status for image in images))\n"
        "next(image for image in images if image.error)",
    )
    assert "max=" not in bar["data"]["text/html"]  # nobody knows how long a generator is
    assert "5 were there already" in bar["data"]["text/html"]
    assert "'failed', 'skipped'" in seen["text"]
    assert "&lt;script&gt;" in failed["data"]["text/html"]
    assert "<script>" not in failed["data"]["text/html"]


async def test_the_bar_moves_and_an_interrupted_cell_loses_nothing(
    notebook: tuple[Sandbox, Notebook], tmp_path: Path
) -> None:
    """The square of the toolbar: what is in flight is saved, and the same cell goes on later."""
    sandbox, client = notebook
    assert await client.outputs(SETTINGS) == []
    sandbox.durations = Durations(queue_s=0.1, run_s=2.0)
    cell = (
        "async with KreaSession(polling=soon, concurrency=4) as session:\n"
        "    report = await show(session.render([f'owl {n}' for n in range(40)], 'owls/'))\n"
        "report"
    )
    told: list[dict[str, Any]] = []
    async with anyio.create_task_group() as group:

        async def run() -> None:
            told.extend(await client.outputs(cell))

        group.start_soon(run)
        await until(lambda: len(sandbox.ledger.tasks) >= 6 and len(client.updates) >= 3, within_s=30)
        kernel: Any = client.km
        await kernel.interrupt_kernel()
    assert len(set(client.updates)) >= 3
    assert any(output["output_type"] == "error" for output in told), told
    paid = len(sandbox.ledger.tasks)
    assert paid < 40
    assert len(list((tmp_path / "work" / "owls").glob("*.png"))) == paid
    assert sandbox.ledger.duplicates == {}


# --- outside of a notebook --------------------------------------------------------------------------------------------


async def test_elsewhere_the_progress_is_lines_on_stderr(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with session_of(sandbox) as session:
        report = await show(session.render(["a fox", "an owl"], tmp_path))
    out, err = capsys.readouterr()
    assert (report.saved, out) == (2, "")
    assert err.splitlines()[0] == "0/2 saved, 0 in flight, 0.00 credits"
    assert re.match(r"2/2 saved, 0 in flight, ([\d.]+ pictures/s, )?0\.90 credits", err.splitlines()[-1])
    assert "\x1b" not in err


async def test_who_leaves_half_way_leaves_no_timer_behind(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with session_of(sandbox) as session, session.render(map(str, range(50)), tmp_path) as batch:
        images = showing(batch)
        async for image in images:
            assert image.status == "saved"
            break
        await images.aclose()
        said = capsys.readouterr().err.splitlines()
        assert len(said) == 2  # the first and the last
    assert capsys.readouterr().err == ""


async def test_an_error_of_the_list_is_raised(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken() -> Any:
        yield "a fox"
        raise ValueError("the list is broken")

    async with session_of(sandbox) as session:
        with pytest.raises(ValueError, match="the list is broken"):
            await show(session.render(broken(), tmp_path), rows=9)
    assert capsys.readouterr().err.splitlines()[-1].startswith("1/9 saved")
