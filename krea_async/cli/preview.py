"""The first pictures of a list as they will be asked for, so that an expansion is seen before it is paid for."""

from collections import Counter
from typing import Any, Final

from krea_async.models import ImageRequest, IndexedRequest
from krea_async.prompts import PromptList

ROWS_SHOWN: Final = 5
_PROMPT_CHARS: Final = 60


def preview_lines(rows: PromptList) -> list[str]:
    """A line for each of the first pictures, and one for the rest. The list must have been checked."""
    lines = []
    for row in rows.preview(ROWS_SHOWN):
        request = row.request
        seed = "" if request.seed is None else f", seed {request.seed}"
        prompt = " ".join(request.prompt.split())
        cut = prompt if len(prompt) <= _PROMPT_CHARS else f"{prompt[: _PROMPT_CHARS - 1]}…"
        lines.append(f"  row {row.index}: {request.size} {request.quality}{seed}: {cut}")
    more = rows.rows - len(lines)
    return [*lines, f"  and {more:,} more"] if more > 0 and lines else lines


def preview_facts(rows: PromptList) -> list[dict[str, Any]]:
    """The same for programs."""
    return [
        {
            "index": row.index,
            "prompt": row.request.prompt,
            "size": row.request.size,
            "quality": row.request.quality,
            "seed": row.request.seed,
            "id": row.request.id,
        }
        for row in rows.preview(ROWS_SHOWN)
    ]


def rows_by_quality(rows: PromptList) -> dict[str, int]:
    """How many rows the list has of each quality, the cheapest first. Reads the list."""
    counts: Counter[str] = Counter()
    for row in rows:
        request = row.request if isinstance(row, IndexedRequest) else row
        if isinstance(request, ImageRequest):
            counts[request.quality] += 1
    return dict(sorted(counts.items()))
