"""The pictures of the tasks: drawn when first asked for, off the event loop, and only as many kept as memory allows."""

from collections import OrderedDict
from hashlib import blake2b, sha256
from random import Random

import anyio
import anyio.to_thread

from krea_async.sandbox.pictures import Drawing, draw
from krea_async.sandbox.tasks import TaskRecord

_KEPT_DRAWINGS = 32  # when every picture is its own; at most some 10 MB
_CHUNK_BYTES = 12  # a PNG chunk's length, kind and checksum

_Scene = tuple[int, int, bytes]


class Album:
    """Draws, remembers and pads. Equal (prompt, size, quality, seed) give equal bytes in any sandbox set up like this.

    scenes: at most this many drawings for each pixel size, all of them kept; None: one for each picture, the last few
    kept. picture_bytes: pad every file to this size, if it is not larger anyway.
    """

    def __init__(self, *, scenes: int | None, picture_bytes: int | None) -> None:
        self._scenes = scenes
        self._padded_bytes = picture_bytes or 0
        self._noise = Random(0).randbytes(self._padded_bytes)
        self._drawings: OrderedDict[_Scene, Drawing] = OrderedDict()
        self._drawing = anyio.Lock()

    def name(self, task: TaskRecord) -> str:
        """What the picture's bytes depend on, hashed: its ETag."""
        facts = (task.request.prompt, task.request.size, task.request.quality, task.seed_used, self._padded_bytes)
        return blake2b(repr(facts).encode(), digest_size=16).hexdigest()

    async def picture(self, task: TaskRecord) -> bytes:
        """The whole PNG. Notes its hash and its size in the task's record the first time."""
        name = self.name(task)
        file = (await self._drawn(task, name)).complete(f"krea-async sandbox, no real picture: {name}")
        if task.sha256 is None:
            task.sha256, task.picture_bytes = sha256(file).hexdigest(), len(file)
        return file

    async def _drawn(self, task: TaskRecord, name: str) -> Drawing:
        width_px, height_px = task.request.pixels
        number = int(name[:16], 16) if self._scenes is None else int(name[:16], 16) % self._scenes
        scene = (width_px, height_px, number.to_bytes(8))
        if (known := self._drawings.get(scene)) is not None:
            self._drawings.move_to_end(scene)
            return known
        async with self._drawing:  # drawing holds the GIL: two at once would gain nothing
            if (known := self._drawings.get(scene)) is not None:
                return known
            drawing = await anyio.to_thread.run_sync(self._draw, *scene)
        self._drawings[scene] = drawing
        if self._scenes is None and len(self._drawings) > _KEPT_DRAWINGS:
            self._drawings.popitem(last=False)
        return drawing

    def _draw(self, width_px: int, height_px: int, scene: bytes) -> Drawing:
        bare = draw(width_px, height_px, scene)
        comment_bytes = len(f"krea-async sandbox, no real picture: {'0' * 32}")
        lacking = self._padded_bytes - len(bare.complete("0" * comment_bytes)) - _CHUNK_BYTES
        return bare if lacking < 0 else bare.padded(self._noise[:lacking])
