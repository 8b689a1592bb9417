"""A thumbnail of one picture, made in a process of its own: a decoder may hang, crash or eat all memory.

Only this module needs Pillow. What comes back is bytes or words, so nothing of the decoder's reaches the gallery.
"""

import io
import math
import os
import tempfile
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Final

from attrs import field, frozen

AREA_PX: Final = 320 * 320
"""As wide as 452 or as high: on the page all have one height, and wide ones would be less sharp with one long side."""

MAX_PIXELS: Final = 64_000_000
"""Some fifteen times the largest picture of ours; decoding more could be a trap."""

PART_SUFFIX: Final = ".part"

_QUALITY: Final = 55
_PROFILE_BYTES: Final = 1024  # such small colour profiles go along; others would outweigh the thumbnail
_METHOD: Final = 2


@frozen
class Shrunk:
    """webp: the thumbnail; None: there is none, and `note` says why. not_kept: why it could not be written down."""

    webp: bytes | None = field(default=None, repr=False)
    note: str | None = None
    not_kept: str | None = None


def shrink(path: str, keep_as: str | None) -> Shrunk:
    """The thumbnail of the picture at `path`, also written to `keep_as`, whole or not at all, if that is possible."""
    try:
        webp = _shrunk(path)
    except OSError as error:
        return Shrunk(note=error.strerror or str(error))
    except Exception as error:  # noqa: BLE001 - there is no end to what decoders raise for damaged files
        return Shrunk(note=str(error) or type(error).__name__)
    try:
        if keep_as is not None:
            _keep(Path(keep_as), webp)
    except OSError as error:
        return Shrunk(webp, not_kept=error.strerror or str(error))
    return Shrunk(webp)


def _shrunk(path: str) -> bytes:
    from PIL import Image, ImageOps  # noqa: PLC0415 - here, because it is an extra, and because only workers need it

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(path, formats=("PNG", "JPEG", "WEBP")) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise ValueError(f"{picture.width}x{picture.height} pixels are too many")
            scale = min(1.0, math.sqrt(AREA_PX / max(1, picture.width * picture.height)))
            size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
            picture.draft("RGB", size)  # a JPEG is decoded at the scale that is needed
            has_alpha = "transparency" in picture.info or "A" in picture.getbands()
            whole = picture.convert("RGBA" if has_alpha else "RGB")  # a palette cannot be smoothed
            upright = ImageOps.exif_transpose(whole.resize(size, reducing_gap=2.0))
            colours = picture.info.get("icc_profile") or b""
            more = {"icc_profile": colours if len(colours) <= _PROFILE_BYTES else b"", "exif": b"", "xmp": b""}
            file = io.BytesIO()
            upright.save(file, "WEBP", quality=_QUALITY, method=_METHOD, **more)
            return file.getvalue()


def _keep(path: Path, data: bytes) -> None:
    fd, part = tempfile.mkstemp(dir=path.parent, suffix=PART_SUFFIX)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
        os.replace(part, path)  # noqa: PTH105 - mkstemp gives a text
    except BaseException:
        with suppress(OSError):
            os.unlink(part)  # noqa: PTH108
        raise
