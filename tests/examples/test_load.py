"""Hundreds of callers at once of the FastAPI example. `python -m benchmarks.service` does it with 2,000."""

from pathlib import Path

import pytest

from benchmarks.service import load

pytestmark = pytest.mark.anyio

CALLS, RATE = 500, 50.0


async def test_every_caller_gets_one_picture_that_is_paid_once(tmp_path: Path) -> None:
    """Far more than the gateway takes in a second; whoever has to wait takes little memory."""
    result = await load(CALLS, RATE, tmp_path)
    assert result.statuses == {200: CALLS}
    assert result.tasks == CALLS
    assert result.paid_twice == 0
    assert result.rss_peak - result.rss_before < CALLS * 100_000
    assert result.wall_s < 3 * CALLS / RATE
