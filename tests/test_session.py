"""One picture at a time: generate, submit, attach, credits, and what leaving a session means."""

import pytest

from krea_async import ImageRequest

pytestmark = pytest.mark.anyio


async def test_generate_saves_the_picture_that_the_gateway_made(sandbox, session_of, tmp_path) -> None:
    async with session_of(sandbox) as session:
        image = await session.generate(
            "a lighthouse at dusk", size="16:9", quality="2K", to=tmp_path / "lighthouse.png"
        )
    assert image.path == tmp_path / "lighthouse.png"
    assert (image.width, image.height) == ImageRequest("x", size="16:9", quality="2K").pixels
