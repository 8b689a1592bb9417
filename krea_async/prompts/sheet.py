"""Prompt lists, read lazily and read twice.

Every picture costs money, so the whole list is checked before the first one is ordered (`PromptList.check`) and read
again while it is rendered. Both passes keep one row in memory, whatever the length of the list or of a broken line; the
check also keeps 32 bytes of each id.
"""

from collections import Counter
from collections.abc import Iterator
from itertools import islice
from os import PathLike, fspath
from types import TracebackType
from typing import BinaryIO, Self

from krea_async.errors import InvalidRequestError
from krea_async.models import ImageRequest, IndexedRequest
from krea_async.prompts.columns import Row
from krea_async.prompts.ids import SeenIds
from krea_async.prompts.policy import SheetPolicy
from krea_async.prompts.problems import RowProblem, problem_of, refused, shown
from krea_async.prompts.sources import Format, Source, sources_of

# Number of the source, line, index, and the picture or why there is none.
_Picture = tuple[int, int, int, ImageRequest | InvalidRequestError]


class PromptList:
    """An open prompt list. Use it as a context manager: it closes what it opened.

    `check()` is the first pass and iterating is the second; they share the files, so finish one before the next.
    rows, credits, usd: how many pictures are asked for, after expansion and of this shard, and the list price of the
    valid ones; listed: how many rows stand in the files. All are set when `check()` is through.
    Reading blocks for as long as the disk does; an OSError means that it failed half-way.
    """

    def __init__(self, sources: list[Source], policy: SheetPolicy) -> None:
        """`sources` are closed with the list, which has at least one."""
        more = f" and {len(sources) - 1} more" if len(sources) > 1 else ""
        self.name = f"{sources[0].name}{more}"
        self.format: Format = sources[0].format
        self.policy = policy
        self.rows = 0
        self.listed = 0
        self.credits = 0.0
        self.usd = 0.0
        self._is_checked = False
        self._sources = sources

    @classmethod
    def open(
        cls,
        *paths: str | PathLike[str],
        format: Format | None = None,  # noqa: A002 - the word users know
        stdin: BinaryIO | None = None,
        policy: SheetPolicy | None = None,
    ) -> Self:
        """The list at `paths`: files and globs, one after the other, and "-" for standard input.

        `format` None: as each file's extension says. What is packed with gzip is unpacked while it is read. What cannot
        be read twice (standard input, pipes) is copied to a temporary file first. On standard input, format None means
        jsonl if the first character is `{` or `"`, csv or tsv if the first line is a header of our fields, else txt.
        `stdin` replaces the process's own.
        A path that exists is never a glob. A glob's files are in the order of the numbers in their names.
        Raises InvalidRequestError for a missing or unreadable file, an unknown extension, a glob that finds nothing, a
        file that is named twice, and for parquet without pyarrow.
        """
        policy = policy or SheetPolicy()
        sources = sources_of([fspath(path) for path in paths], format, stdin, template=policy.template)
        try:
            if policy.columns:
                _refuse_columns(sources)
            return cls(sources, policy)
        except BaseException:
            for source in sources:
                source.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the files, and delete temporary copies. Closing twice does nothing."""
        for source in self._sources:
            source.close()

    def check(self) -> Iterator[RowProblem]:
        """Read the whole list once and yield each problem as it is met; a list without a row is a problem, too.

        All of the list is checked, also of what is another shard's. Rows of the same id that ask for different pictures
        are a problem: a directory knows a row by its id.
        """
        rows = listed = 0
        prices: Counter[tuple[float, float]] = Counter()
        seen = SeenIds()
        place, told = (0, 0), ""
        for number, line, index, request in self._pictures():
            if (number, line) != place:
                place, told = (number, line), ""
                listed += 1
            problem: RowProblem | None = None
            if isinstance(request, InvalidRequestError):
                problem = self._problem(number, line, request)
            elif request.id is not None and (first := seen.add(request, number, line)) is not None:
                problem = self._same_id(number, line, request, first)
            if problem is not None and problem.message != told:  # one that all pictures of a row have is told once
                told = problem.message
                yield problem
            if self._is_read(index, request):
                rows += 1
                if isinstance(request, ImageRequest):
                    prices[request.credits, request.usd] += 1
        if not listed:
            yield self._problem(0, 1, refused("the list holds no prompt", "at least one row"))
        self.rows, self.listed, self._is_checked = rows, listed, True
        self.credits = sum(price * count for (price, _), count in prices.items())
        self.usd = sum(price * count for (_, price), count in prices.items())

    def __len__(self) -> int:
        return self.rows

    def __iter__(self) -> Iterator[ImageRequest | IndexedRequest | InvalidRequestError]:
        """Each picture, lazily; of a shard with its number in the whole list.

        A row that turned bad since the check is its error, as a value: one row, not the batch. What was put behind the
        list since then was neither checked nor priced; it is one such error.
        """
        sharded = self.policy.shard is not None
        for given, (number, line, index, found) in enumerate(self._own_pictures()):
            has_grown = self._is_checked and given == self.rows
            request = refused("this row is new since the list was checked; run it again") if has_grown else found
            if isinstance(request, InvalidRequestError):
                told = self._problem(number, line, request)
                yield refused(str(told), told.allowed, field=told.field, value=told.value)
            else:
                yield IndexedRequest(index, request) if sharded else request
            if has_grown:
                return

    def preview(self, count: int = 5) -> list[IndexedRequest]:
        """The first pictures as they will be asked for, with their numbers."""
        first = (
            IndexedRequest(index, request)
            for _, _, index, request in self._own_pictures()
            if isinstance(request, ImageRequest)
        )
        return list(islice(first, count))

    def _own_pictures(self) -> Iterator[_Picture]:
        """Of this shard."""
        return (one for one in self._pictures() if self._is_read(one[2], one[3]))

    def _pictures(self) -> Iterator[_Picture]:
        """Of all shards, in order. Ends with the error if they become too many."""
        index = 0
        for number, source in enumerate(self._sources):
            for line, row in source.rows(self.policy.reads, self.policy.encoding):
                try:
                    count, requests = self._asked(row)
                except InvalidRequestError as error:
                    yield number, line, index, error
                    index += 1
                    continue
                if count > 1 and index + count > self.policy.max_pictures:
                    yield number, line, index, self._too_many(index + count)
                    return
                for request in requests:
                    yield number, line, index, request
                    index += 1

    def _asked(self, row: Row | InvalidRequestError) -> tuple[int, Iterator[ImageRequest | InvalidRequestError]]:
        if isinstance(row, InvalidRequestError):
            raise row
        return self.policy.pictures(row)

    def _too_many(self, pictures: int) -> InvalidRequestError:
        limit = f"{self.policy.max_pictures:,}"
        message = f"with this row the list comes to {pictures:,} pictures, more than {limit}"
        return refused(message, f"at most {limit}: fewer sizes, qualities, seeds or alternatives, or a shorter list")

    def _is_read(self, index: int, request: ImageRequest | InvalidRequestError) -> bool:
        shard = self.policy.shard
        if shard is None:
            return True
        return shard.has(request) if isinstance(request, ImageRequest) else shard.has_error(index)

    def _problem(self, number: int, line: int, error: InvalidRequestError) -> RowProblem:
        return problem_of(self._sources[number].name, line, error)

    def _same_id(self, number: int, line: int, request: ImageRequest, first: tuple[int, int]) -> RowProblem:
        where = f"{self._sources[first[0]].name}:{first[1]}"
        message = f"id {shown(request.id)} is also that of {where}, which asks for another picture"
        return self._problem(number, line, refused(message, "an id of its own", field="id", value=request.id))


def _refuse_columns(sources: list[Source]) -> None:
    """A mapping of columns that a list cannot have would be without effect."""
    for source in sources:
        if source.format in {"txt", "openai-batch"}:
            message = f"{source.name}: a list of the kind {source.format} has no columns that could be named"
            raise refused(message, "a .csv, .tsv, .jsonl or .parquet list", field="columns", value=source.name)
