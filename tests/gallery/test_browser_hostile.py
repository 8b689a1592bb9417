"""All text is hostile: whatever prompts, ids, messages and names say, nothing of it becomes code or a request."""

import io
import json
import re
from pathlib import Path

import pytest
from browser import failed, looking, png, tile_of, write_sheet
from playwright.async_api import Browser

from krea_async.gallery.page import content_security_policy, write_page
from krea_async.gallery.sheet import Sheet, Thumbnail, Tile

SCRIPT = "<script>alert(1)</script>"
HOSTILE = {
    "script": SCRIPT,
    "end": f"</script>{SCRIPT}",
    "comment": f"<!--<script>{SCRIPT}",
    "markup": '"><img src=x onerror=alert(1)><svg onload=alert(1)>',
    "template": "{script} {title} ${alert(1)} {{constructor}}",
    "address": "javascript:alert(1)",
    "direction": "\u202egnp.exe\u2066 abc",
    "long": "x" * 50_000,
    "emoji": "👩‍👩‍👧‍👦" * 500,
    "surrogate": "half \ud83d of one",
    "lines": "a\nb\r\nc\u2028d\u2029e\0f",
    "style": "</style><style>*{display:none}",
    "entity": "&lt;b&gt; &amp;quot;",
    "prototype": "__proto__",
    "constructor": "constructor",
}


def hostile_rows() -> list[Tile]:
    rows: list[Tile] = []
    for name, text in HOSTILE.items():
        n = len(rows)
        rows.append(tile_of(n, prompt=text, id=text, task_id=text, file=text))
        rows.append(failed(n + 1, text, text, prompt=f"{name} {text}", charged=text, size=text, quality=text))
    return rows


@pytest.mark.anyio
@pytest.mark.browser
@pytest.mark.parametrize("grouped", [False, True])
async def test_nothing_of_it_runs(chromium: Browser, tmp_path: Path, grouped: bool) -> None:
    rows = hostile_rows()
    url = write_sheet(tmp_path, rows, title=f"{HOSTILE['end']} {HOSTILE['markup']} {HOSTILE['template']} \udcff")
    async with looking(chromium, url + ("#group=prompt" if grouped else "")) as view:
        await view.wait_for_count(f"{len(rows)} rows")
        await view.page.keyboard.press("f")
        for row in rows:
            await view.page.evaluate(f"location.hash = 'open={row.n}{'&group=prompt' if grouped else ''}'")
            await view.page.wait_for_function(
                f"() => document.querySelector('#viewer').open && location.hash.includes('open={row.n}')"
            )
            await view.page.locator("#close").click()
            await view.page.wait_for_function("() => !location.hash.includes('open=')")
        await view.page.fill("#search", "<script>")
        await view.page.locator("mark").first.wait_for()
        assert await view.page.locator("script:not([type])").count() == 1
        assert await view.page.locator("svg, style ~ style, [onerror], [onload]").count() == 0
        assert "</script>" in await view.page.locator("h1").inner_text()
        names = await view.names()
        assert any(SCRIPT in name for name in names)


@pytest.mark.anyio
@pytest.mark.browser
async def test_a_name_is_a_name(chromium: Browser, tmp_path: Path) -> None:
    """Whatever a file is called, its picture is asked for in this directory, and found there."""
    names = ["javascript:alert(1)", "a b#c?d=e&f%41.png", "https:evil.example", "'\"<b>.png", "..png", "🦊.png"]
    for name in names:
        png(tmp_path / name, 8, 8)
    url = write_sheet(tmp_path, [tile_of(n, file=name) for n, name in enumerate(names)])
    async with looking(chromium, f"{url}#open=0") as view:
        for _ in names:
            await view.page.wait_for_function("() => document.getElementById('picture').naturalWidth === 8")
            link = view.page.get_by_role("link", name="Open file")
            assert (await link.evaluate("link => link.href")).startswith(f"{tmp_path.as_uri()}/")
            await view.page.keyboard.press("ArrowRight")
        evil = write_sheet(
            tmp_path, [tile_of(0, file=".."), tile_of(1, file="../../etc/passwd"), tile_of(2, file="\udcff.png")]
        )
        await view.page.goto(f"{evil}#open=0")
        await view.page.reload()  # the same address but for the fragment: the browser would stay where it is
        await view.page.get_by_text("This picture cannot be shown").wait_for()
        await view.page.keyboard.press("ArrowRight")
        await view.page.get_by_text("The file is missing").wait_for()
        await view.page.keyboard.press("ArrowRight")
        await view.page.get_by_text("This picture cannot be shown").wait_for()
        assert not [request for request in view.requests if request.endswith("/etc/passwd")]


@pytest.mark.anyio
@pytest.mark.browser
async def test_the_policy_stops_what_would_slip_through(chromium: Browser, tmp_path: Path) -> None:
    """Were there a hole, the policy would still be there: markup, inline scripts and other hosts are refused."""
    async with looking(chromium, write_sheet(tmp_path, [tile_of(0)])) as view:
        refused = await view.page.evaluate(
            """async () => {
                const tries = {
                    markup: () => { document.body.innerHTML = "<b>"; },
                };
                const failed = Object.keys(tries).filter((name) => {
                    try { tries[name](); return false; } catch { return true; }
                });
                try { await fetch("https://example.invalid/"); } catch { failed.push("fetch"); }
                const script = document.createElement("script");
                try { script.text = "window.ran = true"; document.body.append(script); } catch { /* as it should be */ }
                if (!window.ran) failed.push("script");
                return failed;
            }"""
        )
        assert refused == ["markup", "fetch", "script"]
        assert [request for request in view.requests if request.startswith("http")] == []
        view.complaints.clear()  # these were ours


def written(sheet: Sheet, thumbnails: list[Thumbnail] | None = None) -> str:
    out = io.StringIO()
    write_page(out, sheet, thumbnails)
    return out.getvalue()


def test_a_block_holds_its_rows_and_nothing_ends_it_before() -> None:
    rows = hostile_rows()
    page = written(Sheet(title=SCRIPT, made_at_s=0.0, tiles=rows))
    page.encode()  # no lone surrogate is left
    blocks = re.findall(r'<script type="application/json" data-block="rows">(.*?)</script>', page, re.DOTALL)
    assert len(blocks) == 1
    assert not set("<>&\u2028\u2029") & set(blocks[0])
    block = json.loads(blocks[0])
    place = block["columns"].index("prompt")
    assert [values[place] for values in block["rows"]] == [row.prompt for row in rows]
    assert page.count("<script>") == 1
    assert f'<h1 id="title" dir="auto">{SCRIPT.replace("<", "&lt;").replace(">", "&gt;")}</h1>' in page


def test_numbers_that_json_has_not_are_unknown() -> None:
    page = written(Sheet(title="t", made_at_s=0.0, tiles=[tile_of(0, seconds=float("nan"), credits=float("inf"))]))
    assert "NaN" not in page.partition('data-block="rows"')[2]
    assert "Infinity" not in page.partition('data-block="rows"')[2]


def test_only_a_served_page_may_connect() -> None:
    assert "connect-src" not in content_security_policy(live=False)
    assert "connect-src 'self'" in content_security_policy(live=True)
    for live in (False, True):
        assert "unsafe" not in content_security_policy(live=live)
        assert content_security_policy(live=live).startswith("default-src 'none'")


def test_thumbnails_are_in_blocks_that_name_their_rows() -> None:
    thumbnails = [Thumbnail(n=n, webp=bytes(90_000)) for n in (3, 1, 2, 0)]
    more = [Thumbnail(n=4, url="./.gallery/4.webp"), Thumbnail(n=5, note="broken </script>")]
    page = written(Sheet(title="t", made_at_s=0.0), [*thumbnails, *more])
    assert re.findall(r'data-rows="([\d ]+)"', page) == ["3 1 2 0"]
    links = re.findall(r'data-block="links">(.*?)</script>', page)
    assert json.loads(links[0]) == [[4, "./.gallery/4.webp", None], [5, None, "broken </script>"]]
