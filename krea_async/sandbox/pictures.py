"""Pictures worth looking at, drawn in a few milliseconds without any imaging library.

A load test fetches thousands of pictures, and a first run should please, so each is a landscape (sky, sun or moon, four
ridges, perhaps trees or a lake) in a palette PNG: every row is a handful of runs of equal bytes, which Python's slices
copy and zlib packs at memory speed. Everything follows from the `scene`, a few bytes: equal scenes, equal pictures.
"""

import colorsys
import math
import struct
import zlib
from collections.abc import Iterable, Sequence
from itertools import pairwise, zip_longest
from random import Random
from typing import Final

from attrs import frozen

Colour = tuple[float, float, float]
Ridge = list[tuple[float, float]]  # its crest, from left to right, in pixels
Spans = list[list[tuple[int, int]]]  # for each row, stretches [start, stop); equal rows may share one list

SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"

_SHADES: Final = 22  # of the sky, from the zenith to the horizon
_GLOWS: Final = 4  # the bare sky and three rings of light around the sun
_RIDGES: Final = 4
_DEPTHS: Final = 8  # shades of one ridge, from its crest down into the mist
_FIRST_RIDGE: Final = _SHADES * _GLOWS
_DISC: Final = _FIRST_RIDGE + _RIDGES * _DEPTHS
_STAR: Final = _DISC + 1
_WATER: Final = 128  # the palette's upper half repeats the lower one as the lake reflects it
_BEYOND: Final = 1 << 16  # right of any picture; slices stop at the edge by themselves
_EDGE_TO_EDGE: Final = (0, _BEYOND)
_REFLECT: Final = bytes(i | _WATER for i in range(256))


@frozen(kw_only=True)
class Mood:
    """A time of day: hue, saturation and lightness (each 0..1) of zenith, horizon, nearest ridge and sun."""

    zenith: Colour
    horizon: Colour
    ground: Colour
    disc: Colour
    stars: bool = False


MOODS: Final = (
    Mood(zenith=(0.62, 0.45, 0.58), horizon=(0.07, 0.80, 0.82), ground=(0.70, 0.35, 0.20), disc=(0.12, 1.00, 0.93)),
    Mood(zenith=(0.58, 0.62, 0.56), horizon=(0.53, 0.50, 0.88), ground=(0.38, 0.45, 0.18), disc=(0.15, 1.00, 0.95)),
    Mood(zenith=(0.73, 0.50, 0.27), horizon=(0.04, 0.88, 0.66), ground=(0.78, 0.45, 0.10), disc=(0.11, 1.00, 0.82)),
    Mood(zenith=(0.47, 0.28, 0.66), horizon=(0.12, 0.55, 0.90), ground=(0.47, 0.40, 0.17), disc=(0.13, 0.90, 0.96)),
    Mood(zenith=(0.55, 0.40, 0.64), horizon=(0.10, 0.72, 0.80), ground=(0.03, 0.55, 0.22), disc=(0.12, 0.95, 0.92)),
    Mood(zenith=(0.88, 0.38, 0.52), horizon=(0.98, 0.75, 0.86), ground=(0.80, 0.40, 0.20), disc=(0.05, 1.00, 0.95)),
    Mood(
        zenith=(0.65, 0.60, 0.09), horizon=(0.60, 0.45, 0.34), ground=(0.64, 0.50, 0.06), disc=(0.14, 0.50, 0.92),
        stars=True,
    ),
    Mood(
        zenith=(0.72, 0.55, 0.10), horizon=(0.47, 0.42, 0.36), ground=(0.60, 0.45, 0.06), disc=(0.55, 0.30, 0.95),
        stars=True,
    ),
)  # fmt: skip


@frozen
class Drawing:
    """A finished PNG in two parts: between them goes what makes the file its own (`complete`)."""

    head: bytes
    tail: bytes

    def complete(self, comment: str) -> bytes:
        """The whole file, with `comment` (Latin-1) as a tEXt chunk."""
        return b"".join((self.head, chunk(b"tEXt", b"Comment\0" + comment.encode("latin-1")), self.tail))

    def padded(self, noise: bytes) -> "Drawing":
        """The same picture with `noise` in a private chunk, which every reader skips."""
        return Drawing(self.head, chunk(b"krPd", noise) + self.tail)


def draw(width_px: int, height_px: int, scene: bytes) -> Drawing:
    """The landscape that `scene` stands for."""
    rng = Random(scene)
    header = struct.pack(">IIBBBBB", width_px, height_px, 8, 3, 0, 0, 0)  # 8 bits a pixel, by palette
    mood = rng.choice(MOODS)
    palette = _palette(mood, rng.uniform(-0.04, 0.04))
    rows = _landscape(width_px, height_px, rng, stars=mood.stars)
    packer = zlib.compressobj(1, zlib.DEFLATED, 15, 9)
    pixels = packer.compress(b"\0" + b"\0".join(rows)) + packer.flush()  # each row starts with filter type 0: none
    head = SIGNATURE + chunk(b"IHDR", header) + chunk(b"PLTE", palette)
    return Drawing(head, chunk(b"IDAT", pixels) + chunk(b"IEND", b""))


def chunk(kind: bytes, data: bytes) -> bytes:
    """One PNG chunk: length, kind, data, checksum."""
    return b"".join((struct.pack(">I", len(data)), kind, data, struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))))


def _landscape(width: int, height: int, rng: Random, *, stars: bool) -> list[bytes]:
    """The picture's rows, each `width` palette indices."""
    runs = [bytes([index]) * width for index in range(_STAR + 1)]
    lake = rng.random() < 0.4
    shore = int(height * rng.uniform(0.66, 0.76)) if lake else height
    skyline = height * rng.uniform(0.46, 0.56)
    ridges = _ridges(width, height, skyline, shore, rng)
    spans = [_spans(ridge, shore) for ridge in ridges]
    if rng.random() < 0.4:
        for k in (2, 3):
            _plant(ridges[k], spans[k], height * (0.02 + 0.018 * k), rng)
    crests = [next((y for y, row in enumerate(below) if row), 0) for below in spans]
    depths = [min(_DEPTHS - 1, int(below / (0.3 * height) * _DEPTHS)) for below in range(height)]
    sun = _Sun.placed(width, height, skyline, rng)
    starry = _stars(width, skyline, rng) if stars else {}
    rows: list[bytes] = []
    for y in range(shore):
        ridge = _RIDGES - 1
        while ridge >= 0 and (not (stretches := spans[ridge][y]) or stretches[0] != _EDGE_TO_EDGE):
            ridge -= 1  # find the nearest ridge that fills the row: what lies behind it is hidden
        if ridge >= 0:
            row = runs[_FIRST_RIDGE + ridge * _DEPTHS + depths[y - crests[ridge]]]
        else:
            row = sun.shine(y, _shade(y, skyline), runs)
            if y in starry:
                row = _starlit(row, starry[y])
        canvas = None
        for nearer in range(ridge + 1, _RIDGES):
            if stretches := spans[nearer][y]:
                canvas = canvas or bytearray(row)
                run = runs[_FIRST_RIDGE + nearer * _DEPTHS + depths[y - crests[nearer]]]
                for start, stop in stretches:
                    canvas[start:stop] = run[start:stop]
        rows.append(row if canvas is None else bytes(canvas))
    if lake:
        rows.extend(_reflections(rows, height - shore, rng))
    return rows


def _ridges(width: int, height: int, skyline: float, shore: int, rng: Random) -> list[Ridge]:
    """Four crest lines, the farthest first; in half of the pictures, the two farthest are steep."""
    steep = rng.random() < 0.5
    low = shore - 0.04 * height if shore < height else 0.9 * height
    ridges = []
    for k in range(_RIDGES):
        base = skyline + (low - skyline) * (k / (_RIDGES - 1)) ** 1.2
        amplitude = height * (0.16 if steep and k < 2 else 0.07) * rng.uniform(0.7, 1.2)
        ridges.append(_ridge(width, base, amplitude, rng, steep=steep and k < 2))
    return ridges


def _ridge(width: int, base: float, amplitude: float, rng: Random, *, steep: bool) -> Ridge:
    waves = [
        (rng.uniform(0.7, 1.4) * times, rng.random(), weight)
        for times, weight in ((1.1, 0.55), (2.9, 0.3), (6.7, 0.12), (17.0, 0.03))
    ]
    wave = _zigzag if steep else _swing
    step = max(4, width // 150)
    return [
        (x, base - amplitude * sum(weight * wave(times * x / width + phase) for times, phase, weight in waves))
        for x in range(0, width + step, step)
    ]


def _swing(turns: float) -> float:
    return math.sin(math.tau * turns)


def _zigzag(turns: float) -> float:
    return 2 * abs(2 * (turns % 1.0) - 1) - 1


def _spans(ridge: Ridge, height: int) -> Spans:
    """For every row, the stretches [start, stop) that lie below `ridge`."""
    top, bottom = max(0, math.ceil(min(y for _, y in ridge))), math.ceil(max(y for _, y in ridge))
    crossings: list[list[int]] = [[] for _ in range(top, min(bottom, height))]
    for y in range(max(top, math.ceil(ridge[0][1])), min(bottom, height)):
        crossings[y - top].append(0)
    for (x0, y0), (x1, y1) in pairwise(ridge):
        rows = range(max(top, math.ceil(min(y0, y1))), min(height, math.ceil(max(y0, y1))))
        slope = (x1 - x0) / (y1 - y0) if rows else 0.0
        for y in rows:
            crossings[y - top].append(int(x0 + (y - y0) * slope))
    slanting = [list(zip_longest(row[::2], row[1::2], fillvalue=_BEYOND)) for row in crossings]
    return [[]] * top + slanting + [[_EDGE_TO_EDGE]] * (height - bottom)


def _plant(ridge: Ridge, spans: Spans, tall: float, rng: Random) -> None:
    """Add firs to `spans`, in groves along `ridge`: each four tiers of branches, up to some `tall` pixels high."""
    grove = rng.random() < 0.5
    for x, y in ridge[1:]:
        grove ^= rng.random() < 0.06
        if grove and rng.random() < 0.45:
            top = min(tall * rng.uniform(0.6, 1.3), x * 4)  # at the left edge, small enough to stand in the picture
            for row in range(max(0, int(y - top)), min(int(y + 0.1 * top), len(spans))):
                down = (row - y + top) / top  # 0 at the tip, 1 on the ridge
                half = 1 + top * 0.19 * down * (0.5 + 0.5 * (4 * down % 1.0))
                spans[row] = [*spans[row], (int(x - half), int(x + half))]  # not in place: rows may share a list


def _shade(y: int, skyline: float) -> int:
    """The sky's shade in row `y`; neighbouring rows alternate between two shades, so that no bands show."""
    return min(_SHADES - 1, int(y / skyline * (_SHADES - 1) + (0.0, 0.5, 0.25, 0.75)[y & 3]))


@frozen
class _Sun:
    """Or moon: a disc at (x, y) with rings of light around it, all in pixels, the widest first and the disc last."""

    x: float
    y: float
    radii: tuple[float, ...]

    @classmethod
    def placed(cls, width: int, height: int, skyline: float, rng: Random) -> "_Sun":
        radius = min(width, height) * rng.uniform(0.05, 0.11)
        radii = tuple(radius * (1 + 0.75 * ring) for ring in range(_GLOWS - 1, -1, -1))
        return cls(width * rng.uniform(0.15, 0.85), skyline * rng.uniform(0.25, 0.85), radii)

    def shine(self, y: int, shade: int, runs: Sequence[bytes]) -> bytes:
        """One row of sky, of this shade where it is bare."""
        if abs(y - self.y) >= self.radii[0]:
            return runs[shade]
        canvas = bytearray(runs[shade])
        for ring, radius in enumerate(self.radii):
            square = radius * radius - (y - self.y) ** 2
            if square <= 0:
                break
            reach = math.sqrt(square)
            start, stop = max(0, int(self.x - reach)), int(self.x + reach)
            canvas[start:stop] = runs[_DISC if ring == _GLOWS - 1 else (ring + 1) * _SHADES + shade][start:stop]
        return bytes(canvas)


def _starlit(row: bytes, places: Iterable[int]) -> bytes:
    """`row` with stars, but none before the sun or its light."""
    canvas = bytearray(row)
    for x in places:
        if canvas[x] < _SHADES:
            canvas[x] = _STAR
    return bytes(canvas)


def _stars(width: int, skyline: float, rng: Random) -> dict[int, list[int]]:
    """Where stars stand: x positions by row. Bright ones are small crosses."""
    stars: dict[int, list[int]] = {}
    for _ in range(150):
        x, y = rng.randrange(1, width - 2), int(skyline * 1.1 * rng.random() ** 1.4)
        stars.setdefault(y, []).extend((x, x + 1))
        stars.setdefault(y + 1, []).extend((x, x + 1))
        if rng.random() < 0.15:
            stars[y].extend((x - 1, x + 2))
            stars.setdefault(y + 2, []).append(x)
    return stars


def _reflections(rows: Sequence[bytes], depth: int, rng: Random) -> Iterable[bytes]:
    """The lake: the rows above the shore upside down, tinted, and swaying more the nearer they are."""
    sway = len(rows[0]) * 0.004 * rng.uniform(0.6, 1.4)
    shore = len(rows)
    for below in range(depth):
        mirrored = rows[max(0, shore - 1 - int(below * 1.7))].translate(_REFLECT)
        nearness = below / depth
        shift = int(sway * (0.4 + 2 * nearness) * math.sin(260 * math.sqrt(0.02 + nearness) / (1 + nearness)))
        yield mirrored[shift:] + mirrored[:shift]


def _palette(mood: Mood, turn: float) -> bytes:
    """256 RGB colours, all hues turned by `turn`: sky by glow and height, ridges by distance and depth, disc, star."""
    zenith, horizon, ground, disc = (_rgb(c, turn) for c in (mood.zenith, mood.horizon, mood.ground, mood.disc))
    colours: list[Colour] = []
    for glow in range(_GLOWS):
        for shade in range(_SHADES):
            sky = _mix(zenith, horizon, (shade / (_SHADES - 1)) ** 1.3)
            colours.append(_mix(sky, disc, (0.0, 0.10, 0.20, 0.34)[glow]))
    for k in range(_RIDGES):
        crest = _mix(horizon, ground, 0.28 + 0.72 * (k / (_RIDGES - 1)) ** 0.9)
        mist = 0.45 * (1 - k / _RIDGES)
        colours += [_mix(crest, horizon, mist * depth / (_DEPTHS - 1)) for depth in range(_DEPTHS)]
    colours += [disc, _mix(disc, (1.0, 1.0, 1.0), 0.5)]  # the star is paler
    colours += [(0.0, 0.0, 0.0)] * (_WATER - len(colours))
    water = _mix(zenith, ground, 0.45)
    colours += [_mix(colour, water, 0.32) for colour in colours]
    return bytes(round(255 * part) for colour in colours for part in colour)


def _mix(one: Colour, other: Colour, share: float) -> Colour:
    a, b, c = (x + (y - x) * share for x, y in zip(one, other, strict=True))
    return a, b, c


def _rgb(colour: Colour, turn: float) -> Colour:
    hue, saturation, lightness = colour
    return colorsys.hls_to_rgb((hue + turn) % 1.0, lightness, saturation)
