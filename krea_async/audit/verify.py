"""Looks whether every picture that was paid for is still there, and whole.

Verifying only reads and takes no lock, so it works beside a run and on a read-only disk: the journal only grows, and a
picture has its name before the journal says so. What a run does meanwhile is not looked at.
"""

import os
import re
import time
from array import array
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path, PurePath
from typing import Final

from attrs import evolve, frozen

from krea_async.audit.examine import Decoder, Finding, Kind, Seen, examine, is_picture_name, pillow
from krea_async.audit.recorded import Recorded, Records, Source, open_records
from krea_async.errors import DISK_ERROR, JournalError
from krea_async.storage.digests import digest, ordered, repeated_in
from krea_async.storage.names import PICTURE_SUFFIXES
from krea_async.storage.records import content_digest_of

_NUMBER: Final = re.compile(r"[-_][0-9]+\Z")


@frozen(kw_only=True)
class Problem:
    """Something that is wrong with one row's picture.

    n: the row's number in the journal, None if there is none; index, id: of the row in its list. task_id: the task that
    the picture is from; seed: what it was asked for with, and may be made again with. repairable: whether it can be
    asked for again, at no cost; the gateway keeps it for a day. rerender_credits, rerender_usd: what another picture
    costs by the price list; None if the request is not known.
    """

    n: int | None
    index: int | None
    id: str | None
    file: str
    task_id: str | None
    seed: int | None
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
    source: Source
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
    takes some 50 bytes of memory a row, and more only for problems. Damaged lines are skipped and told.
    Raises JournalError: there is neither ("no_journal"), the journal is newer, or the disk fails ("disk_error").
    """
    try:
        with ExitStack() as held:
            return _verified(directory, open_records(directory, held), pillow() if decode else None)
    except OSError as error:
        raise JournalError(f"cannot read {directory}: {error.strerror or error}", code=DISK_ERROR) from error


def _verified(directory: Path, records: Records, decoder: Decoder | None) -> VerifyReport:
    begun_ns = time.time_ns()
    names, hashes = array("Q"), array("Q")
    problems: list[Problem] = []
    rows = files = total_bytes = decoded = 0
    for row, seen in _all_seen(directory, records.rows(), decoder):
        rows, files, decoded = rows + 1, files + seen.files, decoded + seen.decoded
        total_bytes += seen.bytes
        problems += (_problem(row, finding) for finding in seen.findings)
        names.extend(map(digest, row.files))
        if row.task_id is not None and row.sha256:
            hashes.append(digest(row.sha256))
    owned = ordered(names)
    shared = repeated_in(owned)
    problems = [_blamed(problem) if digest(problem.file) in shared else problem for problem in problems]
    problems += _duplicates(directory, records, repeated_in(ordered(hashes)))
    problems = _with_sources(problems, records)
    strays, parts = _unowned(directory, owned, records.expected_stems(), begun_ns)
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


def _all_seen(directory: Path, rows: Iterable[Recorded], decoder: Decoder | None) -> Iterator[tuple[Recorded, Seen]]:
    """Each row with what was found of it, in order. Hashing and decoding leave the interpreter, so threads will do."""
    threads = os.cpu_count() or 1
    waiting: deque[tuple[Recorded, Future[Seen]]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="verify") as pool:
        for row in rows:
            waiting.append((row, pool.submit(examine, directory, row, decoder)))
            if len(waiting) > 4 * threads:
                first, seen = waiting.popleft()
                yield first, seen.result()
        for first, seen in waiting:
            yield first, seen.result()


def _problem(row: Recorded, finding: Finding) -> Problem:
    request = row.request
    return Problem(
        n=row.n,
        index=row.index,
        id=request.id if request else None,
        file=finding.file,
        task_id=row.task_id,
        seed=request.seed if request else None,
        kind=finding.kind,
        message=finding.message,
        repairable=finding.curable and row.n is not None,
        rerender_credits=request.credits if request else None,
        rerender_usd=request.usd if request else None,
    )


def _blamed(problem: Problem) -> Problem:
    if problem.kind not in {"size", "sha256"}:
        return problem
    return evolve(problem, kind="shared_name", message=f"another row's picture has its name, and {problem.message}")


def _duplicates(directory: Path, records: Records, repeated: set[int]) -> Iterator[Problem]:
    """Pictures that are the same as an earlier row's and should not be. `repeated`: digests of their sha256."""
    first: dict[str, Recorded] = {}
    for row in records.rows() if repeated else ():
        if row.task_id is None or row.sha256 is None or digest(row.sha256) not in repeated:
            continue
        other = first.setdefault(row.sha256, row)
        if other is row or _may_be_equal(other, row, directory):
            continue
        name = "the very file" if other.files[0] == row.files[0] else f"the same picture as {other.files[0]}"
        words = f"it is {name} of row {other.index}, which was another task"
        yield _problem(row, Finding(file=row.files[0], kind="duplicate", message=words, curable=False))


def _may_be_equal(one: Recorded, other: Recorded, directory: Path) -> bool:
    """Whether one task made both, both were asked for with the same seed, or somebody linked them to save space."""
    if one.task_id == other.task_id:
        return True
    asked, again = one.request, other.request
    if asked and again and asked.seed and content_digest_of(asked) == content_digest_of(again):
        return True
    if one.files[0] == other.files[0] or not all(map(is_picture_name, (one.files[0], other.files[0]))):
        return False
    with suppress(OSError):
        return (directory / one.files[0]).samefile(directory / other.files[0])
    return False


def _with_sources(problems: list[Problem], records: Records) -> list[Problem]:
    """Rows that were copied from another one had no task: what made the other picture makes theirs."""
    orphans = {problem.n for problem in problems if problem.repairable and problem.task_id is None}
    if not orphans:
        return problems
    pictures = {row.n: row.sha256 for row in records.rows() if row.n in orphans and row.sha256}
    wanted = set(pictures.values())
    tasks = {row.sha256: row.task_id for row in records.rows() if row.task_id and row.sha256 in wanted}

    def sourced(problem: Problem) -> Problem:
        if not problem.repairable or problem.task_id is not None:
            return problem
        task_id = tasks.get(pictures.get(problem.n, ""))
        return evolve(problem, task_id=task_id, repairable=task_id is not None)

    return [*map(sourced, problems)]


def _unowned(
    directory: Path, owned: "array[int]", expected_stems: frozenset[str], begun_ns: int
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Pictures that no row owns, and unfinished downloads; but nothing newer than `begun_ns`: a run is at work.

    owned: digests of the rows' file names, in their order.
    """
    strays: list[str] = []
    parts: list[str] = []
    with os.scandir(directory) as entries:
        for entry in entries:
            suffix = PurePath(entry.name).suffix.lower()
            if suffix != ".part" and (suffix not in PICTURE_SUFFIXES or _holds(owned, digest(entry.name))):
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


def _holds(ordered: "array[int]", wanted: int) -> bool:
    place = bisect_left(ordered, wanted)
    return place < len(ordered) and ordered[place] == wanted
