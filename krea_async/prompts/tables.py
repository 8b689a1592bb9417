"""Tables with a header: .csv and .tsv. A quoted cell may span lines; a broken row does not spoil the next."""

import csv
import re
from collections.abc import Iterator
from itertools import chain
from typing import Final

from krea_async.errors import InvalidRequestError
from krea_async.prompts.columns import Columns, Read
from krea_async.prompts.problems import refused
from krea_async.prompts.text import MAX_LINE_BYTES, Line

_TOLD: Final = re.compile(r"sep=([,;|\t])", re.IGNORECASE)


def csv_rows(lines: Iterator[Line], columns: Columns) -> Iterator[Read]:
    """Rows of a .csv. Cells end with `;` if the header has no comma and a `;`, as spreadsheets in Europe write it.

    A first line `sep=;`, by which Excel is told of a delimiter, tells it here as well.
    """
    for number, text in lines:
        if isinstance(text, str) and not text.strip():
            continue
        if isinstance(text, str) and (told := _TOLD.fullmatch(text.rstrip(" "))):
            yield from _rows(lines, columns, told[1])
        else:
            semicolons = isinstance(text, str) and "," not in text and ";" in text
            yield from _rows(chain([(number, text)], lines), columns, ";" if semicolons else ",")
        return


def tsv_rows(lines: Iterator[Line], columns: Columns) -> Iterator[Read]:
    """Rows of a .tsv."""
    return _rows(lines, columns, "\t")


def _rows(lines: Iterator[Line], columns: Columns, delimiter: str) -> Iterator[Read]:
    """Rows below a header. Those whose cells are all empty, as spreadsheets leave behind, are blank lines."""
    header: list[str] = []
    for number, cells in _cells(lines, delimiter):
        if isinstance(cells, InvalidRequestError):
            yield number, cells
        elif not header:
            header = [cell.strip() for cell in cells]
            problems = list(columns.problems(header))
            for problem in problems:
                yield number, problem
            if problems:
                return  # what the cells mean is unknown
        elif len(cells) > len(header):
            found = f"the row has {len(cells)} cells, the header {len(header)}"
            yield number, refused(found, "a quoted cell, if it holds the delimiter", value=cells[len(header)])
        else:
            yield number, columns.of_cells(dict(zip(header, cells, strict=False)))
        if not header:
            return  # the header itself cannot be read


def _cells(lines: Iterator[Line], delimiter: str) -> Iterator[tuple[int, list[str] | InvalidRequestError]]:
    """The cells of each row that is not blank. A fresh parser per row: a broken row cannot spoil the next."""
    for first in lines:
        bad: list[InvalidRequestError] = []
        cells: list[str] = []
        try:
            cells = next(csv.reader(_row_lines(first, lines, bad), delimiter=delimiter, strict=True))
        except csv.Error as exc:
            bad.append(refused(f"the row cannot be read: {exc}; is a quote missing?", '"cells", quotes in them twice'))
        if bad:
            yield first[0], bad[0]
        elif any(cell.strip() for cell in cells):
            yield first[0], cells


def _row_lines(first: Line, lines: Iterator[Line], bad: list[InvalidRequestError]) -> Iterator[str]:
    """The lines of one row, as far as the parser asks for them: a quoted cell may span several."""
    left = MAX_LINE_BYTES  # the parser has a limit of its own, but any library may have raised it
    for _, text in chain([first], lines):
        if isinstance(text, InvalidRequestError):
            bad.append(text)
            yield "\n"
            continue
        yield f"{text}\n"
        left -= len(text)
        if left <= 0:
            return
