"""Is every picture that was paid for still there, and whole? And fetching again, for nothing, those that are not.

Verifying only reads and takes no lock, so it works beside a run and on a read-only disk: the journal only grows, and a
picture has its name before the journal says so. What a run does meanwhile is not looked at. Repairing writes into the
journal and moves files, so it locks the directory.
"""

import errno
import hashlib
import os
import re
import stat
import time
from array import array
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import partial
from hashlib import blake2b
from itertools import count, pairwise
from pathlib import Path, PurePath
from typing import Any, BinaryIO, Final, Literal, Protocol, cast

import anyio
from attrs import evolve, field, frozen

from krea_async.errors import (
    AccessDeniedError,
    AuthenticationError,
    ImageExpiredError,
    InvalidImageError,
    InvalidRequestError,
    JournalError,
    KreaError,
    SessionClosedError,
    TaskFailedError,
    TaskNotFoundError,
)
from krea_async.models import ImageRequest
from krea_async.pipeline import PICTURE_SUFFIXES
from krea_async.report import no_journal
from krea_async.session import KreaSession
from krea_async.storage.disk import DISK_ERROR, disk_errors, in_thread
from krea_async.storage.formats import PictureInfo, inspect
from krea_async.storage.history import JOURNAL_NAME, History
from krea_async.storage.journal import Journal, open_journal
from krea_async.storage.manifest import MANIFEST_NAME, manifest_lines, rebuild_manifest
from krea_async.storage.names import file_stem
from krea_async.storage.part import Target
from krea_async.storage.records import Saved, content_digest_of
from krea_async.storage.replay import RowState
from krea_async.tasks import task_group

Kind = Literal[
    "missing",  # the file is not there
    "unreadable",  # it cannot be opened or read
    "size",  # it has another number of bytes than was recorded
    "sha256",  # its bytes are not those that were recorded
    "structure",  # it is no whole picture
    "undecodable",  # Pillow cannot read all of its pixels
    "pixels",  # it has other pixels than were recorded
    "shared_name",  # another row's picture has its name
    "other_size",  # its pixels are not those that the API documents for the request; it is as it was made
    "duplicate",  # it is the same picture as one that it should differ from
    "unsafe_name",  # the record names a file outside of the directory; it was not looked at
]

DAMAGE: Final[frozenset[Kind]] = frozenset(
    {"missing", "unreadable", "size", "sha256", "structure", "undecodable", "pixels", "shared_name"}
)
"""The kinds that mean: this row has no good picture (any more)."""

MAX_DECODED_PIXELS: Final = 64_000_000  # sixteen times the largest that is documented; more could be a trap for memory
REPAIRS_AT_ONCE: Final = 32

_NUMBER: Final = re.compile(r"[-_][0-9]+\Z")
_CANNOT_GO_ON: Final = (AuthenticationError, AccessDeniedError, JournalError, SessionClosedError)
_GONE: Final = (ImageExpiredError, TaskNotFoundError, TaskFailedError)


@frozen(kw_only=True)
class Problem:
    """Something that is wrong with one row's picture.

    n: the row's number in the journal, None if there is none; index, id: of the row in its list. task_id: the task that
    the picture is from. repairable: whether it can be asked for again, at no cost; the gateway keeps it for a day.
    rerender_credits, rerender_usd: what another picture costs by the price list; None if the request is not known.
    """

    n: int | None
    index: int | None
    id: str | None
    file: str
    task_id: str | None
    kind: Kind
    message: str
    repairable: bool
    rerender_credits: float | None
    rerender_usd: float | None


@frozen(kw_only=True)
class VerifyReport:
    """What `verify` found.

    source: what the pictures were compared with. rows: saved ones; files, bytes: that are there. decoder: what decoded
    pictures in full, None if nothing could; decoded: how many. strays: picture files that no row owns. parts: downloads
    that were not finished; those of a run that goes on are among them. damaged_lines: of the source, from 1.
    """

    directory: Path
    source: Literal["journal", "manifest"]
    rows: int
    files: int
    bytes: int
    decoder: str | None
    decoded: int
    problems: tuple[Problem, ...]
    strays: tuple[str, ...]
    parts: tuple[str, ...]
    damaged_lines: tuple[int, ...]

    @property
    def ok(self) -> bool:
        """Whether every saved row has its picture. Strays and parts belong to no row, so they do no harm."""
        return not self.problems and not self.damaged_lines


def verify(directory: Path, *, decode: bool = True) -> VerifyReport:
    """Compare every saved row with its file, by the journal, or by `manifest.jsonl` where there is no journal. Blocks.

    decode: read every pixel, if Pillow is installed; `report.decoder` says whether it was. Works on all processors;
    takes some 40 bytes of memory a row, and more only for problems. Damaged lines are skipped and told.
    Raises JournalError: there is neither ("no_journal"), the journal is newer, or the disk fails ("disk_error").
    """
    begun_ns = time.time_ns()
    decoder = _pillow() if decode else None
    names, hashes = array("Q"), array("Q")
    problems: list[Problem] = []
    rows = files = total_bytes = decoded = 0
    with ExitStack() as held:
        records = _opened(directory, held)
        for row, seen in _all_seen(directory, records.rows(), decoder):
            rows, files, decoded = rows + 1, files + seen.files, decoded + seen.decoded
            total_bytes += seen.bytes
            problems += (_problem(row, *finding) for finding in seen.findings)
            names.extend(map(_digest, row.files))
            if row.task_id is not None and row.sha256:
                hashes.append(_digest(row.sha256))
        shared = _repeated(names)
        problems = [_blamed(problem) if _digest(problem.file) in shared else problem for problem in problems]
        problems += _duplicates(directory, records, _repeated(hashes))
        problems = _with_sources(problems, records)
        strays, parts = _unowned(directory, names, records.expected_stems(), begun_ns)
        return VerifyReport(
            directory=directory,
            source=records.source,
            rows=rows,
            files=files,
            bytes=total_bytes,
            decoder=None if decoder is None else decoder.name,
            decoded=decoded,
            problems=tuple(sorted(problems, key=lambda problem: -1 if problem.n is None else problem.n)),
            strays=strays,
            parts=parts,
            damaged_lines=tuple(records.damaged),
        )


# --- what ought to be there -------------------------------------------------------------------------------------------


@frozen(kw_only=True)
class _Recorded:
    """A saved row. What is not known is None, or 0, or empty. The facts are those of the first file."""

    n: int | None = None
    index: int | None = None
    request: ImageRequest | None = None
    files: tuple[str, ...]
    task_id: str | None = None
    bytes: int | None = None
    sha256: str | None = None
    pixels: tuple[int, int] | None = None


class _Records(Protocol):
    source: Literal["journal", "manifest"]

    @property
    def damaged(self) -> Iterable[int]: ...
    def rows(self) -> Iterator[_Recorded]: ...
    def expected_stems(self) -> frozenset[str]: ...


class _JournalRecords:
    source: Literal["journal", "manifest"] = "journal"

    def __init__(self, history: History) -> None:
        self._history = history
        self.damaged = history.damaged

    def rows(self) -> Iterator[_Recorded]:
        for n in range(self._history.rows):
            if self._history.state(n) is RowState.SAVED:
                yield _recorded(self._history, n)

    def expected_stems(self) -> frozenset[str]:
        """Names that rows under way may have given to pictures already."""
        rows = (self._history.row(left.n) for left in self._history.open_rows())
        return frozenset(file_stem(row.index, row.request) for row in rows)


def _recorded(history: History, n: int) -> _Recorded:
    saved = history.saved(n)
    index = request = None
    with suppress(JournalError):  # the row's own line is lost, which a damaged journal says anyway
        row = history.row(n)
        index, request = row.index, row.request
    return _Recorded(
        n=n,
        index=index,
        request=request,
        files=saved.files,
        task_id=saved.task_id,
        bytes=saved.bytes,
        sha256=saved.sha256 or None,
        pixels=(saved.width, saved.height) if saved.width and saved.height else None,
    )


class _ManifestRecords:
    """Saved rows by the manifest; of several lines about one file the last counts, because a file has one content."""

    source: Literal["journal", "manifest"] = "manifest"

    def __init__(self, path: Path) -> None:
        self._path = path
        self.damaged: list[int] = []
        names = array("Q", (_digest(file) for _, _, file in self._lines()))
        repeated = _repeated(names)
        self._last = {name: place for place, name in enumerate(names) if name in repeated}

    def rows(self) -> Iterator[_Recorded]:
        for place, row, file in self._lines():
            if self._last.get(_digest(file), place) == place:
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


def _of_manifest(row: Mapping[str, Any], file: str) -> _Recorded:
    """Whoever edited the file may have written anything."""
    request = None
    with suppress(InvalidRequestError):
        request = ImageRequest.of({name: row.get(name) for name in ("prompt", "size", "quality", "seed", "id")})
    numbers = {name: row[name] for name in ("index", "bytes", "width", "height") if type(row.get(name)) is int}
    words = {name: row[name] for name in ("task_id", "sha256") if isinstance(row.get(name), str)}
    width, height = numbers.pop("width", 0), numbers.pop("height", 0)
    pixels = (width, height) if width and height else None
    return _Recorded(request=request, files=(file,), pixels=pixels, **numbers, **words)


def _opened(directory: Path, held: ExitStack) -> _Records:
    """Raises JournalError if there is nothing to compare with, or it cannot be read."""
    try:
        if (directory / JOURNAL_NAME).exists():
            return _JournalRecords(held.enter_context(History(directory / JOURNAL_NAME, skip_damaged=True)))
        if (directory / MANIFEST_NAME).is_file():
            return _ManifestRecords(directory / MANIFEST_NAME)
    except OSError as error:
        raise JournalError(f"cannot read {directory}: {error.strerror or error}", code=DISK_ERROR) from error
    raise no_journal(directory)


# --- one picture ------------------------------------------------------------------------------------------------------


@frozen
class _Decoder:
    """name: what it is. decode: reads every pixel; False if it cannot do this format. Raises whatever it likes."""

    name: str
    decode: Callable[[BinaryIO, PictureInfo], bool]


@frozen(kw_only=True)
class _Seen:
    """What was found of a row. findings: file, kind, message, and whether another download can help."""

    files: int
    bytes: int
    decoded: int
    findings: list[tuple[str, Kind, str, bool]] = field(factory=list)


def _pillow() -> _Decoder | None:
    try:
        from PIL import Image, __version__, features  # noqa: PLC0415 - an extra that may be missing
    except ImportError:
        return None
    Image.init()  # here, and not in several threads at the same time

    def decode(file: BinaryIO, info: PictureInfo) -> bool:
        if info.extension == "webp" and not features.check("webp"):
            return False
        file.seek(0)
        with Image.open(file, formats=("PNG", "JPEG", "WEBP")) as picture:
            picture.verify()  # checksums, which reading the pixels does not look at
        file.seek(0)
        with Image.open(file, formats=("PNG", "JPEG", "WEBP")) as picture:
            picture.load()
        return True

    return _Decoder(f"Pillow {__version__}", decode)


def _all_seen(
    directory: Path, rows: Iterable[_Recorded], decoder: _Decoder | None
) -> Iterator[tuple[_Recorded, _Seen]]:
    """Each row with what was found of it, in order. Hashing and decoding leave the interpreter, so threads will do."""
    threads = os.cpu_count() or 1
    waiting: deque[tuple[_Recorded, Future[_Seen]]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="verify") as pool:
        for row in rows:
            waiting.append((row, pool.submit(_look_at, directory, row, decoder)))
            if len(waiting) > 4 * threads:
                first, seen = waiting.popleft()
                yield first, seen.result()
        for first, seen in waiting:
            yield first, seen.result()


def _look_at(directory: Path, row: _Recorded, decoder: _Decoder | None) -> _Seen:
    findings: list[tuple[str, Kind, str, bool]] = []
    files = total_bytes = decoded = 0
    for place, name in enumerate(row.files):
        if not name or "\0" in name or PurePath(name).name != name:
            findings.append((name, "unsafe_name", "the record names no file of this directory", False))
            continue
        facts = row if place == 0 else _Recorded(files=(name,))
        try:
            with _plain_file(directory / name) as file:
                found = _examined(file, facts, decoder)
        except FileNotFoundError:
            findings.append((name, "missing", "the file is not there", True))
            continue
        except OSError as error:
            words = f"the file cannot be read: {error.strerror or error}"
            findings.append((name, "unreadable", words, error.errno == errno.EIO))
            continue
        files, total_bytes, decoded = files + 1, total_bytes + found.bytes, decoded + found.decoded
        findings += found.findings
    return _Seen(files=files, bytes=total_bytes, decoded=decoded, findings=findings)


def _plain_file(path: Path) -> BinaryIO:
    """Opened for reading. Raises OSError, also for what may have no end, such as a pipe."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "it is no plain file")
    return path.open("rb")


def _examined(file: BinaryIO, row: _Recorded, decoder: _Decoder | None) -> _Seen:
    """The first damage of an open file, or else whether its size is the documented one."""
    size_bytes = os.fstat(file.fileno()).st_size
    info: PictureInfo | None = None
    kind, words, decoded = cast("Kind", ""), "", False
    try:
        info = inspect(file, size_bytes=size_bytes)
    except InvalidImageError as error:
        kind, words = "structure", error.message
    whole = "it is a whole picture all the same" if info else words
    file.seek(0)
    if row.bytes is not None and size_bytes != row.bytes:
        kind, words = "size", f"it has {size_bytes} bytes, and {row.bytes} were saved; {whole}"
    elif row.sha256 is not None and _sha256_of(file) != row.sha256:
        kind, words = "sha256", f"its bytes are not those that were saved; {whole}"
    elif info is not None:
        decoded, words = _decoded(file, info, decoder)
        if words:
            kind = "undecodable"
        elif row.pixels not in {None, (info.width, info.height)}:
            kind, words = "pixels", f"it has {info.width}x{info.height} pixels, not {_by(row.pixels)} as recorded"
        elif row.request is not None and row.request.pixels != (info.width, info.height):
            asked = f"{row.request.size} in {row.request.quality}"
            kind = "other_size"
            words = f"it has {info.width}x{info.height} pixels; {asked} is documented as {_by(row.request.pixels)}"
    findings = [(row.files[0], kind, words, kind != "other_size")] if words else []
    return _Seen(files=1, bytes=size_bytes, decoded=int(decoded), findings=findings)


def _decoded(file: BinaryIO, info: PictureInfo, decoder: _Decoder | None) -> tuple[bool, str]:
    """Whether the picture was decoded, and what is wrong with it."""
    if decoder is None:
        return False, ""
    if info.width * info.height > MAX_DECODED_PIXELS:
        return False, f"it says to be {info.width}x{info.height} pixels, too many to be a picture of ours"
    try:
        return decoder.decode(file, info), ""
    except OSError as error:
        if error.errno is not None:  # the disk's, not Pillow's
            raise
        return False, f"its pixels cannot be read: {error}"
    except Exception as error:  # noqa: BLE001 - there is no end to what decoders raise for damaged files
        return False, f"its pixels cannot be read: {str(error) or type(error).__name__}"


def _sha256_of(file: BinaryIO) -> str:
    hasher = hashlib.sha256()
    while chunk := file.read(1 << 20):
        hasher.update(chunk)
    return hasher.hexdigest()


def _by(pixels: tuple[int, int] | None) -> str:
    return "x".join(map(str, pixels or ()))


def _problem(row: _Recorded, file: str, kind: Kind, message: str, repairable: bool) -> Problem:
    request = row.request
    return Problem(
        n=row.n,
        index=row.index,
        id=request.id if request else None,
        file=file,
        task_id=row.task_id,
        kind=kind,
        message=message,
        repairable=repairable and row.n is not None,
        rerender_credits=request.credits if request else None,
        rerender_usd=request.usd if request else None,
    )


# --- all of them together ---------------------------------------------------------------------------------------------


def _blamed(problem: Problem) -> Problem:
    if problem.kind not in {"size", "sha256"}:
        return problem
    return evolve(problem, kind="shared_name", message=f"another row's picture has its name, and {problem.message}")


def _duplicates(directory: Path, records: _Records, repeated: set[int]) -> Iterator[Problem]:
    """Pictures that are the same as an earlier row's and should not be. `repeated`: digests of their sha256."""
    first: dict[str, _Recorded] = {}
    for row in records.rows() if repeated else ():
        if row.task_id is None or row.sha256 is None or _digest(row.sha256) not in repeated:
            continue
        other = first.setdefault(row.sha256, row)
        if other is row or _may_be_equal(other, row, directory):
            continue
        name = "the very file" if other.files[0] == row.files[0] else f"the same picture as {other.files[0]}"
        words = f"it is {name} of row {other.index}, which was another task"
        yield _problem(row, row.files[0], "duplicate", words, repairable=False)


def _may_be_equal(one: _Recorded, other: _Recorded, directory: Path) -> bool:
    """Whether one task made both, both were asked for with the same seed, or somebody linked them to save space."""
    if one.task_id == other.task_id:
        return True
    asked, again = one.request, other.request
    if asked and again and asked.seed and content_digest_of(asked) == content_digest_of(again):
        return True
    if one.files[0] == other.files[0]:
        return False
    try:
        return (directory / one.files[0]).samefile(directory / other.files[0])
    except (OSError, ValueError):
        return False


def _with_sources(problems: list[Problem], records: _Records) -> list[Problem]:
    """Rows that were copied from another one had no task: what made the other picture makes theirs."""
    orphans = {problem.n for problem in problems if problem.repairable and problem.task_id is None}
    pictures = {row.n: row.sha256 for row in records.rows() if row.n in orphans} if orphans else {}
    wanted = {sha256 for sha256 in pictures.values() if sha256}
    tasks = (
        {row.sha256: row.task_id for row in records.rows() if row.task_id and row.sha256 in wanted} if wanted else {}
    )

    def sourced(problem: Problem) -> Problem:
        if not problem.repairable or problem.task_id is not None:
            return problem
        task_id = tasks.get(pictures[problem.n] or "")
        return evolve(problem, task_id=task_id, repairable=task_id is not None)

    return [*map(sourced, problems)]


def _unowned(
    directory: Path, names: "array[int]", expected_stems: frozenset[str], begun_ns: int
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Pictures that no row owns, and unfinished downloads; but nothing newer than `begun_ns`: a run is at work."""
    owned = array("Q", sorted(names))
    strays: list[str] = []
    parts: list[str] = []
    with os.scandir(directory) as entries:
        for entry in entries:
            suffix = PurePath(entry.name).suffix.lower()
            if suffix != ".part" and (suffix not in PICTURE_SUFFIXES or _holds(owned, _digest(entry.name))):
                continue
            with suppress(OSError):
                if not entry.is_file() or entry.stat(follow_symlinks=False).st_ctime_ns >= begun_ns:
                    continue
                if suffix == ".part":
                    parts.append(entry.name)
                elif expected_stems.isdisjoint(_stems(PurePath(entry.name).stem)):
                    strays.append(entry.name)
    return tuple(sorted(strays)), tuple(sorted(parts))


def _stems(stem: str) -> Iterator[str]:
    """`stem`, and what it was before numbers told it apart."""
    yield stem
    while number := _NUMBER.search(stem):
        stem = stem[: number.start()]
        yield stem


def _digest(text: str) -> int:
    """64 bits that stand for a text where a million of them are remembered."""
    return int.from_bytes(blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest())


def _repeated(digests: "array[int]") -> set[int]:
    return {one for one, other in pairwise(sorted(digests)) if one == other}


def _holds(ordered: "array[int]", digest: int) -> bool:
    place = bisect_left(ordered, digest)
    return place < len(ordered) and ordered[place] == digest


# --- repair -----------------------------------------------------------------------------------------------------------


@frozen(kw_only=True)
class Unrepaired:
    """A problem that is still there, and why.

    outlook: "gone": only another picture, paid anew, fills the gap; "later": what failed may work another time; "kept":
    there is a picture, and fetching it again would bring the same one.
    """

    problem: Problem
    reason: str
    outlook: Literal["gone", "later", "kept"]


@frozen(kw_only=True)
class RepairReport:
    """What `repair` did. repaired: problems that are no more."""

    repaired: tuple[Problem, ...]
    left: tuple[Unrepaired, ...]

    @property
    def rerender_credits(self) -> float:
        """What new pictures cost for the rows whose own are gone, by the price list."""
        return round(sum(problem.rerender_credits or 0.0 for problem in self._gone.values()), 6)

    @property
    def rerender_usd(self) -> float:
        """The same in US dollars."""
        return round(sum(problem.rerender_usd or 0.0 for problem in self._gone.values()), 6)

    @property
    def _gone(self) -> dict[tuple[int | None, str], Problem]:
        rows = ((one.problem.n, one.problem) for one in self.left if one.outlook == "gone")
        return {(n, problem.file if n is None else ""): problem for n, problem in rows}


async def repair(session: KreaSession | None, directory: Path, problems: Iterable[Problem]) -> RepairReport:
    """Fetch what is damaged or missing once more from its task, and note it in the journal. Nothing is ever paid.

    problems: of `verify(directory)`; session: None if none of them is repairable. A damaged file is kept beside the new
    one as `<name>.damaged-<n>`, and stays where it is when no new one comes. Raises AuthenticationError and the like
    before anything is touched; JournalError when the directory is in use, or its journal damaged; DownloadError
    ("disk_error") when the disk fails.
    """
    rows: dict[tuple[int, str], list[Problem]] = {}
    left: list[Unrepaired] = []
    for problem in problems:
        if problem.repairable and problem.n is not None and problem.task_id is not None:
            rows.setdefault((problem.n, problem.task_id), []).append(problem)
        else:
            left.append(_not_tried(problem))
    if not rows:
        return RepairReport(repaired=(), left=tuple(left))
    if session is None:
        raise ValueError("pictures are fetched through a session")
    await session.credits()  # a refused key is told now, and not when the first task's time is over
    async with open_journal(directory) as (journal, history):
        work = _Repair(session, directory, journal, history, rows)
        async with task_group() as writing:
            writing.start_soon(journal.run)
            async with task_group() as repairs:
                for _ in range(min(REPAIRS_AT_ONCE, len(rows))):
                    repairs.start_soon(work.run)
            writing.cancel_scope.cancel()
        await journal.flush()
        if work.facts_changed:
            await in_thread(partial(_rebuild, directory))
    return RepairReport(repaired=tuple(work.repaired), left=tuple(left + work.left))


def _not_tried(problem: Problem) -> Unrepaired:
    if problem.kind not in DAMAGE:
        return Unrepaired(problem=problem, reason="it is kept as it is", outlook="kept")
    if problem.kind == "unreadable":
        return Unrepaired(problem=problem, reason="the file must be made readable first", outlook="later")
    if problem.n is None:
        return Unrepaired(problem=problem, reason="there is no journal to note a new picture in", outlook="later")
    return Unrepaired(problem=problem, reason="no task is known that it could come from", outlook="gone")


def _rebuild(directory: Path) -> None:
    with History(directory / JOURNAL_NAME) as history:
        rebuild_manifest(directory, history)


class _Repair:
    """Rows that are fetched again, several at a time, each by whichever `run` is free."""

    def __init__(
        self,
        session: KreaSession,
        directory: Path,
        journal: Journal,
        history: History,
        rows: Mapping[tuple[int, str], list[Problem]],
    ) -> None:
        self.repaired: list[Problem] = []
        self.left: list[Unrepaired] = []
        self.facts_changed = False
        self._session = session
        self._directory = directory
        self._journal = journal
        self._history = history
        self._rows = iter(rows.items())
        self._reading = anyio.Lock()  # a history is for one thread at a time

    async def run(self) -> None:
        """Take rows until there are no more. Raises what ends them all: the key, the disk, the journal."""
        for (n, task_id), problems in self._rows:
            try:
                await self._repair(n, task_id, problems)
            except KreaError as error:
                if isinstance(error, _CANNOT_GO_ON) or error.code == DISK_ERROR:
                    raise
                outlook: Literal["gone", "later"] = "gone" if isinstance(error, _GONE) else "later"
                self.left += (Unrepaired(problem=one, reason=str(error), outlook=outlook) for one in problems)
            else:
                self.repaired += problems

    async def _repair(self, n: int, task_id: str, problems: list[Problem]) -> None:
        saved, broken = await self._as_it_is_now(n, {one.file for one in problems if one.kind == "shared_name"})
        if saved is None or broken is None:
            return
        job = self._session.attach(task_id)
        aside: list[tuple[Path, Path]] = []
        with job.given_up_if_cancelled():
            await job.wait()
            try:
                await in_thread(partial(_move_aside, self._directory, broken, aside))
                # Whole files of the same task keep their names.
                target = Target(directory=self._directory, stem=PurePath(saved.files[0]).stem, resumed=True)
                image = await job.save_as(target)
            except BaseException:
                with anyio.CancelScope(shield=True):
                    await in_thread(partial(_move_back, aside))
                raise
        again = evolve(
            saved,
            files=[path.name for path in image.paths],
            bytes=image.bytes,
            sha256=image.sha256 or "",
            width=image.width or 0,
            height=image.height or 0,
            at_s=time.time(),
        )
        self._journal.note(again)
        await self._journal.durable()
        self.facts_changed = self.facts_changed or evolve(again, at_s=saved.at_s) != saved

    async def _as_it_is_now(self, n: int, shared: set[str]) -> tuple[Saved | None, list[str] | None]:
        """The row's record, and its bad files that may be moved; None if all is well: a run was here meanwhile."""

        def look() -> tuple[Saved | None, list[str] | None]:
            if n >= self._history.rows or self._history.state(n) is not RowState.SAVED:
                return None, None
            seen = _look_at(self._directory, _recorded(self._history, n), _pillow())
            bad = [file for file, kind, _, _ in seen.findings if kind in DAMAGE]
            return self._history.saved(n), [file for file in bad if file not in shared] if bad else None

        async with self._reading:
            return await in_thread(look)


def _move_aside(directory: Path, names: Iterable[str], aside: list[tuple[Path, Path]]) -> None:
    with disk_errors(directory):
        for path in (directory / name for name in names):
            if os.path.lexists(path):
                kept = next(
                    free
                    for number in count(1)
                    if not os.path.lexists(free := path.with_name(f"{path.name}.damaged-{number}"))
                )
                path.rename(kept)
                aside.append((path, kept))


def _move_back(aside: Iterable[tuple[Path, Path]]) -> None:
    for path, kept in aside:
        if not os.path.lexists(path):
            with suppress(OSError):
                kept.rename(path)
