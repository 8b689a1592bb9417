"""What ought to be in an output directory: its saved rows, by the journal, or by the manifest where there is none.

Rows come one by one, in the order of their records, and may be asked for several times: a million of them are not kept.
"""

from array import array
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Final, Literal, Protocol

from attrs import frozen

from krea_async.errors import InvalidRequestError, JournalError
from krea_async.models import ImageRequest
from krea_async.storage.digests import digest, ordered, repeated_in
from krea_async.storage.history import JOURNAL_NAME, History
from krea_async.storage.manifest import MANIFEST_NAME, manifest_lines
from krea_async.storage.names import file_stem
from krea_async.storage.replay import RowState

NO_JOURNAL: Final = "no_journal"
"""Our own error code for a directory that nothing was rendered into."""

Source = Literal["journal", "manifest"]


@frozen(kw_only=True)
class Recorded:
    """A saved row. What is not known is None. n: its number in the journal. The facts are those of the first file."""

    n: int | None = None
    index: int | None = None
    request: ImageRequest | None = None
    files: tuple[str, ...]
    task_id: str | None = None
    bytes: int | None = None
    sha256: str | None = None
    pixels: tuple[int, int] | None = None


class Records(Protocol):
    """Every saved row of a directory. damaged: the numbers, from 1, of the lines that were left out."""

    source: Source

    @property
    def damaged(self) -> Iterable[int]:
        """Complete once all rows were asked for."""

    def rows(self) -> Iterator[Recorded]:
        """Them all, anew at each call."""

    def expected_stems(self) -> frozenset[str]:
        """Names that rows under way may have given to pictures already."""


def open_records(directory: Path, held: ExitStack) -> Records:
    """The records of `directory`; `held` closes them. Raises JournalError if there are none ("no_journal"), OSError."""
    if (directory / JOURNAL_NAME).exists():
        return _JournalRecords(held.enter_context(History(directory / JOURNAL_NAME, skip_damaged=True)))
    if (directory / MANIFEST_NAME).is_file():
        return _ManifestRecords(directory / MANIFEST_NAME)
    raise no_journal(directory)


def no_journal(directory: Path) -> JournalError:
    """What to tell somebody who names the wrong directory."""
    return JournalError(f"{directory} has no {JOURNAL_NAME}: nothing was rendered into it", code=NO_JOURNAL)


class _JournalRecords:
    source: Source = "journal"

    def __init__(self, history: History) -> None:
        self._history = history
        self.damaged = history.damaged

    def rows(self) -> Iterator[Recorded]:
        for n in range(self._history.rows):
            if self._history.state(n) is RowState.SAVED:
                yield recorded_in(self._history, n)

    def expected_stems(self) -> frozenset[str]:
        stems = set()
        for left in self._history.open_rows():
            with suppress(JournalError):  # the row's own line is lost
                row = self._history.row(left.n)
                stems.add(file_stem(row.index, row.request, row.stem))
        return frozenset(stems)


def recorded_in(history: History, n: int) -> Recorded:
    """The saved row `n`."""
    saved = history.saved(n)
    index = request = None
    with suppress(JournalError):  # the row's own line is lost, which a damaged journal says anyway
        row = history.row(n)
        index, request = row.index, row.request
    return Recorded(
        n=n,
        index=index,
        request=request,
        files=tuple(map(str, saved.files)) or ("",),  # a row without a file has lost it
        task_id=saved.task_id,
        bytes=saved.bytes,
        sha256=str(saved.sha256) or None,
        pixels=(saved.width, saved.height) if saved.width and saved.height else None,
    )


class _ManifestRecords:
    """Of several lines about one file the last counts, because a file has one content."""

    source: Source = "manifest"

    def __init__(self, path: Path) -> None:
        self._path = path
        self.damaged: list[int] = []
        names = array("Q", (digest(file) for _, _, file in self._lines()))
        repeated = repeated_in(ordered(names))
        self._last = {name: place for place, name in enumerate(names) if name in repeated}

    def rows(self) -> Iterator[Recorded]:
        for place, row, file in self._lines():
            if self._last.get(digest(file), place) == place:
                yield _of_manifest(row, file)

    def expected_stems(self) -> frozenset[str]:
        return frozenset()

    def _lines(self) -> Iterator[tuple[int, dict[str, Any], str]]:
        """The saved rows' places among all saved ones, facts and files."""
        place = 0
        self.damaged.clear()
        for number, row in manifest_lines(self._path):
            file = None if row is None else row.get("file")
            if row is None or (row.get("status") == "saved" and not isinstance(file, str)):
                self.damaged.append(number)
            elif isinstance(file, str) and row.get("status") == "saved":
                yield place, row, file
                place += 1


def _of_manifest(row: Mapping[str, Any], file: str) -> Recorded:
    """Whoever edited the file may have written anything."""
    request = None
    with suppress(InvalidRequestError):
        request = ImageRequest.of({name: row.get(name) for name in ("prompt", "size", "quality", "seed", "id")})
    numbers = {name: row[name] for name in ("index", "bytes", "width", "height") if type(row.get(name)) is int}
    words = {name: row[name] or None for name in ("task_id", "sha256") if isinstance(row.get(name), str)}
    width, height = numbers.pop("width", 0), numbers.pop("height", 0)
    pixels = (width, height) if width and height else None
    return Recorded(request=request, files=(file,), pixels=pixels, **numbers, **words)
