"""The batch form of OpenAI's Image API, so that lists which were written for it need not be rewritten.

    {"custom_id": "cover", "method": "POST", "url": "/v1/images/generations",
     "body": {"model": "gpt-image-1", "prompt": "A lighthouse at dusk", "size": "1536x1024", "quality": "high", "n": 2}}

`custom_id` is the row's id and `n` the number of its pictures, each with `-1`, `-2`, … behind its id. A size in pixels
is the ratio that it is within 2 % of; where it is exactly what this model makes, it is that one. What only concerns how
OpenAI answers is left out (`IGNORED`); what would make another picture, and cannot be had here, is a problem.
"""

from collections.abc import Mapping
from math import log
from typing import Any, Final

from krea_async.errors import InvalidRequestError
from krea_async.models import QUALITIES, SIZES, ImageRequest, Quality, Size
from krea_async.prompts.columns import Row
from krea_async.prompts.problems import did_you_mean, refused, shown

IGNORED: Final = frozenset(
    {"model", "user", "response_format", "output_format", "output_compression", "moderation", "stream"}
    | {"partial_images", "metadata"}
)
"""Fields of `body` that change nothing of the picture."""

TIERS: Final[Mapping[str, Quality | None]] = {
    "standard": "1K",
    "low": "1K",
    "medium": "1K",
    "high": "2K",
    "hd": "2K",
    "auto": None,
    **{quality: quality for quality in QUALITIES},
}
"""OpenAI's qualities, and our own. auto: as if none was given."""

MAX_COPIES: Final = 10
TOLERANCE: Final = 0.02
"""How far a size in pixels may be from a ratio: 1792x1024 is 1.6 % from 16:9, and 1344x768 just as far."""

_LINE: Final = ("custom_id", "method", "url", "body")
_OURS: Final = ("prompt", "size", "quality", "seed", "nsfw_check", "callback_url")
_BODY: Final = (*_OURS, "n", "background", "style", *sorted(IGNORED))
_URL: Final = "/images/generations"
_RATIOS: Final[dict[Size, float]] = {size: int(size.partition(":")[0]) / int(size.partition(":")[2]) for size in SIZES}
_MADE: Final = {
    pixels: quality
    for quality in reversed(QUALITIES)
    for size in SIZES
    for pixels in (ImageRequest("-", size=size, quality=quality).pixels,)
}
_BY_PIXELS: Final = {
    pixels: [size for size in SIZES if ImageRequest("-", size=size, quality=quality).pixels == pixels]
    for pixels, quality in _MADE.items()
}


def is_openai_line(content: Mapping[str, Any]) -> bool:
    """Whether an object of a .jsonl is of this form."""
    return "custom_id" in content and "body" in content and "prompt" not in content


def openai_row(content: Mapping[str, Any]) -> Row | InvalidRequestError:
    """The row that a line asks for."""
    try:
        return _row(content)
    except InvalidRequestError as error:
        return error


def _row(content: Mapping[str, Any]) -> Row:
    for name in content:
        if name not in _LINE:
            raise refused(f"unknown field {shown(name)}{did_you_mean(name, _LINE)}", ", ".join(_LINE), field=name)
    own, body = content.get("custom_id"), content.get("body")
    if not isinstance(own, str) or not own:
        raise refused("the line has no custom_id", "a text of its own for each line", field="custom_id", value=own)
    if not isinstance(body, dict):
        raise refused("the line has no body", "an object with a prompt", field="body", value=body)
    if (method := content.get("method", "POST")) != "POST":
        raise refused(f"method {shown(method)} makes no picture", "POST", field="method", value=method)
    url = content.get("url", _URL)
    if not isinstance(url, str) or not url.rstrip("/").endswith(_URL):
        raise refused(f"url {shown(url)} is another task than making a picture", f"/v1{_URL}", field="url", value=url)
    given = {field: value for field, value in body.items() if value is not None and field not in IGNORED}
    _refuse_others(given)
    copies = given.get("n", 1)
    if type(copies) is not int or not 1 <= copies <= MAX_COPIES:
        message = f"body.n {shown(copies)} is no number of pictures"
        raise refused(message, f"a whole number from 1 to {MAX_COPIES}", field="n", value=copies)
    fields = {field: given[field] for field in _OURS if field in given}
    fields |= _size_and_quality(fields.pop("size", "auto"), fields.pop("quality", "auto"))
    return Row({"id": own, "prompt": None, **fields}, copies=copies)


def _refuse_others(given: Mapping[str, Any]) -> None:
    for name, value in given.items():
        if name == "background" and value in ("auto", "opaque"):
            continue
        if name not in _OURS and name != "n":
            known = name in _BODY
            words = "cannot be had from this model" if known else f"is unknown{did_you_mean(name, _BODY)}"
            message = f"body.{shown(name)[1:-1]} {words}; leave it out if the picture may do without"
            raise refused(message, ", ".join((*_OURS, "n", *sorted(IGNORED))), field=name, value=value)


def _size_and_quality(size: object, quality: object) -> dict[str, str]:
    """The fields that are given by them; the pixels of a 2K picture say 2K where no quality is given."""
    if not isinstance(quality, str) or quality not in TIERS:
        meant = did_you_mean(str(quality), TIERS)
        raise refused(
            f"body.quality {shown(quality)} is unknown{meant}", ", ".join(TIERS), field="quality", value=quality
        )
    fields: dict[str, str] = {}
    tier = TIERS[quality]
    if size != "auto":
        ratio, made = _ratio(size)
        fields["size"] = ratio
        tier = tier or made
    return fields if tier is None else {**fields, "quality": tier}


def _ratio(size: object) -> tuple[Size, Quality | None]:
    """The ratio, and the quality if it is the size of a picture of 2K."""
    for ratio in SIZES:
        if size == ratio:
            return ratio, None
    width, _, height = size.partition("x") if isinstance(size, str) else ("", "", "")
    if all(side.isascii() and side.isdigit() and 1 <= len(side) <= 5 and int(side) for side in (width, height)):
        pixels = int(width), int(height)
        allowed, tolerance = _BY_PIXELS.get(pixels, SIZES), TOLERANCE if pixels not in _BY_PIXELS else 1.0
        distances = {ratio: abs(log(pixels[0] / pixels[1] / _RATIOS[ratio])) for ratio in allowed}
        nearest = min(distances, key=distances.__getitem__)
        if distances[nearest] <= tolerance:
            return nearest, "2K" if _MADE.get(pixels) == "2K" else None
        found = f"is not within {TOLERANCE:.0%} of a ratio that the model has; the nearest is {nearest}"
    else:
        found = f"is none{did_you_mean(str(size), SIZES)}"
    allowed_words = f"auto, pixels such as 1536x1024, or one of {', '.join(SIZES)}"
    raise refused(f"body.size {shown(size)} {found}", allowed_words, field="size", value=size)
