"""The viewer in Chromium: one picture whole, everything known of it, and a command line that is safe to paste."""

import json
import shlex
from pathlib import Path
from typing import Any

import anyio
import pytest
from browser import PROMPTS, failed, looking, png, tile_of, write_sheet
from playwright.async_api import Browser

pytestmark = [pytest.mark.anyio, pytest.mark.browser]

MAY_COPY: dict[str, Any] = {"permissions": ["clipboard-read", "clipboard-write"]}
FILE_NAME = "100% #1?.png"


@pytest.fixture
def url(tmp_path: Path) -> str:
    png(tmp_path / FILE_NAME, 1600, 1200)
    first = tile_of(0, file=FILE_NAME, width=1600, height=1200, size="4:3", id="fox-1", nsfw_check=True)
    rows = [
        first,
        failed(1),
        tile_of(2),
        tile_of(3, status="waiting", file=None, seed=None),
        *map(tile_of, range(4, 40)),
    ]
    return write_sheet(tmp_path, rows)


async def test_only_the_keyboard(chromium: Browser, url: str) -> None:
    async with looking(chromium, url) as view:
        await view.wait_for_count("40 rows")
        keys = view.page.keyboard
        await view.page.evaluate("document.getElementById('zoom').focus()")
        await keys.press("Tab")
        row = "document.activeElement.dataset.row"
        assert await view.page.evaluate(row) == "0"
        for key, there in (("ArrowRight", "1"), ("End", "39"), ("ArrowRight", "39"), ("Home", "0"), ("ArrowLeft", "0")):
            await keys.press(key)
            assert await view.page.evaluate(row) == there
        await keys.press("ArrowDown")
        below = int(await view.page.evaluate(row))
        assert below > 2
        await keys.press("PageDown")
        assert int(await view.page.evaluate(row)) > below
        await keys.press("PageUp")
        await keys.press("ArrowUp")
        assert int(await view.page.evaluate(row)) < below
        await keys.press("Home")
        await keys.press("Enter")
        await view.page.locator("#viewer[open]").wait_for()
        assert await view.page.locator("#place").inner_text() == "1 of 40"
        await keys.press("ArrowRight")
        await keys.press("ArrowRight")
        assert await view.page.locator("#place").inner_text() == "3 of 40"
        await keys.press("ArrowLeft")
        await keys.press("Escape")
        await view.page.locator("#viewer").wait_for(state="hidden")
        await view.until(f"{row} === '1'")  # the focus is where one has gone to
        await view.until("!location.hash.includes('open=')")  # going back takes a moment
        await keys.press("?")
        await view.page.get_by_role("dialog", name="Keyboard").wait_for()
        await keys.press("Escape")
        await keys.press("f")
        assert await view.page.locator("#filters").is_visible()
        stops = await view.page.locator('.tile[tabindex="0"]').count()
        assert stops == 1


async def test_the_picture_whole_and_in_its_own_pixels(chromium: Browser, url: str) -> None:
    async with looking(chromium, f"{url}#open=0") as view:
        picture = view.page.locator("#picture")
        await view.until("() => document.getElementById('picture').naturalWidth === 1600")
        box = await picture.bounding_box()
        assert box is not None
        assert box["width"] / box["height"] == pytest.approx(4 / 3, rel=0.01)
        assert box["width"] < 1000
        await view.page.keyboard.press("z")
        assert await picture.evaluate("image => [image.offsetWidth, image.offsetHeight]") == [1600, 1200]
        assert await view.page.locator("#scale").get_attribute("aria-pressed") == "true"
        before = await view.page.locator("#stage").evaluate("stage => stage.scrollLeft")
        await view.page.mouse.move(400, 400)
        await view.page.mouse.down()
        await view.page.mouse.move(300, 400)
        await view.page.mouse.up()
        assert await view.page.locator("#stage").evaluate("stage => stage.scrollLeft") == before + 100
        facts = await view.page.locator("#facts-list").inner_text()
        for fact in (
            "saved",
            "4:3 (1600 \u00d7 1200)",
            "1K",
            "0.45",
            "strict",
            "fox-1",
            FILE_NAME,
            "task-unified-1-00000000",
        ):
            assert fact in facts
        link = view.page.get_by_role("link", name="Open file")
        assert await link.get_attribute("href") == "./100%25%20%231%3F.png"
        assert await link.get_attribute("rel") == "noopener noreferrer"


async def test_the_neighbours_are_loaded_ahead(chromium: Browser, url: str) -> None:
    async with looking(chromium, f"{url}#open=5") as view:
        await view.page.locator("#viewer[open]").wait_for()
        assert {request.rsplit("/", 1)[1] for request in view.requests if "picture.png" in request} == {
            "00004-picture.png",
            "00005-picture.png",
            "00006-picture.png",
        }


async def test_a_failure_says_why_what_it_cost_and_what_to_do(chromium: Browser, url: str) -> None:
    async with looking(chromium, f"{url}#open=1") as view:
        trouble = await view.page.locator("#trouble").inner_text()
        assert "content_policy_violation" in trouble
        assert "refused" in trouble
        assert "Not charged. Rewrite the prompt" in trouble
        assert not await view.page.get_by_role("link", name="Open file").is_visible()


async def test_a_file_that_is_gone(chromium: Browser, url: str) -> None:
    async with looking(chromium, f"{url}#open=2") as view:
        await view.page.get_by_text("The file is missing").wait_for()
        await view.page.keyboard.press("ArrowRight")
        await view.page.get_by_text("This picture is waiting").wait_for()


@pytest.mark.parametrize(
    "prompt",
    [
        "a fox",
        'it\'s $(touch pwned) `touch pwned` "quoted" \\ !! %s ~ * ; & | > pwned',
        "-rf --size 2:1",
        "two\nlines\n\nof it",
        "''",
        "tab\there, bell \x07, escape \x1b[201~\r\ntouch pwned\x03, c1 \x9b, back\\slash, 'quote'",
        "🦊 \u202efox",
    ],
)
async def test_the_command_line_that_was_copied_gives_the_prompt(
    chromium: Browser, tmp_path: Path, prompt: str
) -> None:
    """bash runs it, with a program in krea-async's place that says what it was given; nothing else happens."""
    url = write_sheet(tmp_path, [tile_of(0, prompt=prompt, size="16:9", quality="2K", seed=7, nsfw_check=True)])
    async with looking(chromium, f"{url}#open=0", **MAY_COPY) as view:
        await view.page.get_by_role("button", name="Copy command").click()
        await view.page.locator("#said", has_text="Command copied").wait_for()
        command: str = await view.page.evaluate("navigator.clipboard.readText()")
        await view.page.get_by_role("button", name="Copy prompt").click()
        await view.page.locator("#said", has_text="Prompt copied").wait_for()
        assert await view.page.evaluate("navigator.clipboard.readText()") == prompt
    assert not any(character < " " and character != "\n" for character in command)
    bin_dir = tmp_path / "bin"
    bin_dir.mkdir()
    fake = bin_dir / "krea-async"
    fake.write_text("#!/usr/bin/env python3\nimport json, sys\nprint(json.dumps(sys.argv[1:]))\n")
    fake.chmod(0o755)
    script = f'PATH={shlex.quote(str(bin_dir))}:"$PATH"\n{command}\n'
    env = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C.UTF-8"}
    done = await anyio.run_process(["bash", "-c", script], cwd=tmp_path, env=env)
    options = ["--size", "16:9", "--quality", "2K", "--seed", "7", "--nsfw-check"]
    assert json.loads(done.stdout) == ["generate", *options, "--", prompt]
    assert not (tmp_path / "pwned").exists()


async def test_a_task_id_can_be_copied_and_the_prompt_is_marked(chromium: Browser, url: str) -> None:
    async with looking(chromium, f"{url}#q=lighthouse&open=0", **MAY_COPY) as view:
        await view.page.get_by_role("button", name="Copy task id").click()
        await view.page.locator("#said", has_text="Task id copied").wait_for()
        assert await view.page.evaluate("navigator.clipboard.readText()") == "task-unified-1-00000000"
        assert await view.page.locator("#viewer-prompt mark").inner_text() == "lighthouse"
        assert await view.page.locator("#viewer-prompt").inner_text() == PROMPTS[0]
