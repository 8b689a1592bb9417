"""Rows that a template of names calls alike, found before anything is paid for."""

from array import array
from collections.abc import Iterable, Iterator

from attrs import frozen

from krea_async.batch.numbering import Numbering
from krea_async.batch.policy import BatchPolicy
from krea_async.errors import InvalidRequestError
from krea_async.models import ImageRequest, IndexedRequest
from krea_async.storage.digests import digest, ordered, repeated_in
from krea_async.storage.names import folded
from krea_async.storage.template import NameTemplate

Rows = Iterable[ImageRequest | IndexedRequest | InvalidRequestError]


@frozen(kw_only=True)
class NameProblem:
    """Two rows, by their numbers in their list, whose files would have one name. stem: the later one's."""

    first: int
    second: int
    stem: str

    def __str__(self) -> str:
        return f"rows {self.first} and {self.second} would both be named {self.stem!r}; {{index}} tells rows apart"


def name_problems(rows: Rows, policy: BatchPolicy) -> Iterator[NameProblem]:
    """Each row that would have the name of one before it, compared as case-insensitive file systems do. Blocks.

    `rows` is read twice, and takes some 16 bytes of memory a row. Names with a seed that is yet to be drawn are left
    out: they differ in it. Without a template there is no problem: the usual names have the row's number, or its id.
    """
    if policy.name is None:
        return
    template = NameTemplate.parse(policy.name)
    if template.tells_rows_apart:
        return
    drawn_later = policy.record_seeds and template.uses("seed")
    names = array("Q", (digest(folded(stem)) for _, stem in _stems(rows, template, skip_unseeded=drawn_later)))
    repeated = repeated_in(ordered(names))
    first: dict[int, int] = {}
    for index, stem in _stems(rows, template, skip_unseeded=drawn_later) if repeated else ():
        name = digest(folded(stem))
        if name in first:
            yield NameProblem(first=first[name], second=index, stem=stem)
        elif name in repeated:
            first[name] = index


def _stems(rows: Rows, template: NameTemplate, *, skip_unseeded: bool) -> Iterator[tuple[int, str]]:
    numbering = Numbering()
    for row in rows:
        index, request = numbering.take(row)
        if isinstance(request, ImageRequest) and (request.seed or not skip_unseeded):
            yield index, template.stem(index, request)
