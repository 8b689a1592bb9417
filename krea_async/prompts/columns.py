"""Which column holds which field of a request, and what a row's cells are in a request's types."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any, Final

from attrs import field, frozen

from krea_async.errors import InvalidRequestError
from krea_async.models import REQUEST_FIELDS
from krea_async.prompts.problems import did_you_mean, refused, shown

FIELDS: Final = ", ".join(REQUEST_FIELDS)
_FLAGS: Final = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


@frozen
class Row:
    """A row of a sheet: what it says of the request, as it says it.

    fields: of ImageRequest, those that are given. columns: the values that a template may name. copies: how many
    pictures are asked for.
    """

    fields: Mapping[str, Any]
    columns: Mapping[str, str] = field(factory=dict)
    copies: int = 1


Read = tuple[int, Row | InvalidRequestError]
"""The number of a row's first line, and the row, or why it is none."""


@frozen(slots=False)  # for cached_property
class Columns:
    """mapping: the column of a field, where it is not called like it. template: whether prompts may name columns.

    With either of them a sheet may have columns that are no fields; else such a column is a mistake.
    """

    mapping: Mapping[str, str] = field(factory=dict)
    template: bool = False

    @cached_property
    def of_field(self) -> dict[str, str]:
        """The column of each field. A column that another field was mapped to is not also the field of its name."""
        taken = set(self.mapping.values())
        columns = {name: self.mapping.get(name, name) for name in REQUEST_FIELDS}
        return {name: column for name, column in columns.items() if name in self.mapping or column not in taken}

    @property
    def lenient(self) -> bool:
        """Whether other columns are no mistake."""
        return bool(self.mapping) or self.template

    def problems(self, header: list[str]) -> Iterator[InvalidRequestError]:
        """What is wrong with the header of a table."""
        for name, count in Counter(header).items():
            if not self.lenient and name not in REQUEST_FIELDS:
                yield self._unknown("column", name, name)
            elif count > 1 and not (self.lenient and not name):
                message = f"column {shown(name)} is there {count} times"
                yield refused(message, "each column once", field=name, value=name)
        for name in dict.fromkeys([*self.mapping, "prompt"]):
            column = self.of_field.get(name, name)
            if column not in header or name not in self.of_field:
                meant = did_you_mean(column, header)
                if not meant and not self.lenient:
                    meant = "; name the one with the prompts, --prompt-col"
                yield refused(f"the header has no column {shown(column)}{meant}", self._allowed(header), field=column)

    def of_cells(self, cells: Mapping[str, str]) -> Row:
        """The row of a table whose cells are text: an empty one is not given."""
        row = self._picked({name: cell.strip() for name, cell in cells.items()})
        fields = {name: value for name, value in row.fields.items() if value}
        seed, flag = fields.get("seed", ""), fields.get("nsfw_check", "")
        if seed.isascii() and seed.isdigit() and len(seed) < 20:  # anything else is shown as it was written
            fields["seed"] = int(seed)
        if flag.lower() in _FLAGS:
            fields["nsfw_check"] = _FLAGS[flag.lower()]
        return Row({"prompt": "", **fields}, row.columns)

    def of_values(self, record: Mapping[str, Any], *, floats: bool = False) -> Row | InvalidRequestError:
        """The row of an object of JSON or of a parquet file: null is not given. floats: 7.0 is a whole number."""
        if not self.lenient:
            for name in record:
                if name not in REQUEST_FIELDS:
                    return self._unknown("field", name, record[name])
        if self.lenient and (column := self.of_field.get("prompt", "prompt")) not in record:
            return self.missing(column, record)
        row = self._picked(record)
        fields = {name: value for name, value in row.fields.items() if value is not None}
        if type(fields.get("id")) is int:
            fields["id"] = str(fields["id"])
        seed = fields.get("seed")
        if floats and isinstance(seed, float):
            if seed != seed:  # noqa: PLR0124 - NaN, which is how pandas leaves a cell empty
                del fields["seed"]
            elif seed.is_integer():
                fields["seed"] = int(seed)
        return Row(fields, row.columns)

    def missing(self, column: str, known: Iterable[str]) -> InvalidRequestError:
        """That a column is not there."""
        message = f"there is no {shown(column)}{did_you_mean(column, known)}"
        return refused(message, self._allowed(known), field=column)

    def _picked(self, record: Mapping[str, Any]) -> Row:
        if not self.lenient:
            return Row(record)
        fields = {name: record[column] for name, column in self.of_field.items() if column in record}
        if not self.template:
            return Row(fields)
        prompt = self.of_field["prompt"]
        texts = {name: text for name in record if name != prompt and (text := text_of(record[name])) is not None}
        return Row(fields, texts)

    def _unknown(self, kind: str, name: str, value: object) -> InvalidRequestError:
        message = f"unknown {kind} {shown(name)}{did_you_mean(name, REQUEST_FIELDS)}"
        return refused(message, f"{kind}s {FIELDS}", field=name, value=value)

    def _allowed(self, names: Iterable[str]) -> str:
        return f"one of {', '.join(list(names)[:20])}" if self.lenient else f"columns {FIELDS}"


def text_of(value: object) -> str | None:
    """What a template puts in for a cell: nothing for an empty one. None: it holds no text."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return "" if value != value else str(int(value) if value.is_integer() else value)  # noqa: PLR0124 - NaN
    return None if isinstance(value, list | dict | bytes) else str(value)
