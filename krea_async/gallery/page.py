"""The contact sheet's page: one HTML file with everything in it, written as a stream.

The style and the scripts are read from `assets/`, in the order of SCRIPTS, and put into the page as they are. All data
stands in blocks that no browser executes, and no text of a prompt can end one: `<`, `>` and `&` are written as JSON's
escapes. The content security policy names the style and the script by their hashes, and nothing else may run.
"""

import base64
import hashlib
import html
import json
import math
import re
from collections.abc import Iterable, Iterator
from functools import cache
from importlib import resources
from itertools import islice
from typing import Any, Final, TextIO

from attrs import asdict

from krea_async._version import __version__
from krea_async.gallery.sheet import TILE_COLUMNS, Sheet, Thumbnail, Tile

SCRIPTS: Final = (
    "dom.js",
    "format.js",
    "data.js",
    "thumbnails.js",
    "command.js",
    "advice.js",
    "filters.js",
    "layout.js",
    "scroller.js",
    "tile.js",
    "grid.js",
    "address.js",
    "facts.js",
    "viewer.js",
    "totals.js",
    "toolbar.js",
    "live.js",
    "page.js",
    "main.js",
)
ROWS_A_BLOCK: Final = 2000
LINKS_A_BLOCK: Final = 2000
THUMBNAIL_CHARS_A_BLOCK: Final = 400_000
"""The page reads the blocks while the file is being loaded, and decodes a block of thumbnails when one is in sight."""

_SURROGATES: Final = re.compile("[\ud800-\udfff]")


def write_page(out: TextIO, sheet: Sheet, thumbnails: Iterable[Thumbnail] | None = None, *, live: bool = False) -> None:
    """Write the page to `out`, which is UTF-8. Memory does not grow with the rows.

    `sheet.tiles` is iterated once, then `thumbnails`, which come in any order and not for every tile. live: the page
    asks the server for its rows.
    """
    out.write(_head(sheet, live=live))
    tiles = iter(sheet.tiles)
    while block := list(islice(tiles, ROWS_A_BLOCK)):
        rows = {"columns": TILE_COLUMNS, "rows": [_values(tile) for tile in block]}
        out.write(f'<script type="application/json" data-block="rows">{_json(rows)}</script>\n')
    out.writelines(_thumbnail_blocks(thumbnails or ()))
    out.write("</body>\n</html>\n")


def content_security_policy(*, live: bool) -> str:
    """What the page may do, for its meta tag and, of a served page, for the header."""
    style, script = _assets()
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src '{_hash(script)}'",
            f"style-src '{_hash(style)}'",
            "img-src 'self' data:" if live else "img-src 'self' data: file:",
            *(("connect-src 'self'",) if live else ()),
            "base-uri 'none'",
            "form-action 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        )
    )


def _head(sheet: Sheet, *, live: bool) -> str:
    style, script = _assets()
    settings = {
        "version": __version__,
        "title": sheet.title,
        "made_at_s": sheet.made_at_s,
        "source": sheet.source,
        "totals": asdict(sheet.totals),
        "live": live,
        "base_url": sheet.base_url,
    }
    parts = {
        "policy": content_security_policy(live=live),
        "version": __version__,
        "title": html.escape(_SURROGATES.sub("\ufffd", sheet.title)),
        "style": style,
        "settings": _json(settings),
        "script": script,
    }
    # One pass: what is put in is never looked at again, so a title of "{script}" is a title.
    return re.sub(r"\{(\w+)\}", lambda found: parts[found[1]], _asset("template.html"))


def _thumbnail_blocks(thumbnails: Iterable[Thumbnail]) -> Iterator[str]:
    """Embedded ones in blocks that name their rows in front, links and notes in others."""
    numbers: list[int] = []
    texts: list[str] = []
    links: list[tuple[int, str | None, str | None]] = []
    chars = 0
    for thumbnail in thumbnails:
        if thumbnail.webp is None:
            links.append((thumbnail.n, thumbnail.url, thumbnail.note))
            if len(links) == LINKS_A_BLOCK:
                yield _links_block(links)
                links.clear()
            continue
        numbers.append(thumbnail.n)
        texts.append(base64.b64encode(thumbnail.webp).decode())
        chars += len(texts[-1])
        if chars >= THUMBNAIL_CHARS_A_BLOCK:
            yield _embedded_block(numbers, texts)
            numbers.clear()
            texts.clear()
            chars = 0
    if texts:
        yield _embedded_block(numbers, texts)
    if links:
        yield _links_block(links)


def _embedded_block(numbers: list[int], texts: list[str]) -> str:
    rows = " ".join(map(str, numbers))
    return f'<script type="application/json" data-block="thumbnails" data-rows="{rows}">{_json(texts)}</script>\n'


def _links_block(links: list[tuple[int, str | None, str | None]]) -> str:
    return f'<script type="application/json" data-block="links">{_json(links)}</script>\n'


def _values(tile: Tile) -> list[Any]:
    return [_finite(getattr(tile, name)) for name in TILE_COLUMNS]


def _finite(value: object) -> object:
    """JSON has neither infinity nor NaN; a damaged record may."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _json(value: object) -> str:
    r"""As ASCII, so that a lone surrogate and U+2028 are escapes as well; without what could end a script element."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


@cache
def _assets() -> tuple[str, str]:
    """The style and the script, as they stand in the page. The script is one function: it leaves no name behind."""
    script = "".join(_asset(name) for name in SCRIPTS)
    return _asset("style.css"), f'"use strict";\n(() => {{\n{script}}})();\n'


def _asset(name: str) -> str:
    return resources.files(__package__).joinpath("assets", name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
