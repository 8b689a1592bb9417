"""Rows of a .parquet file, read a few at a time. Needs pyarrow, which is imported here and only when it is needed."""

from collections.abc import Iterator
from importlib import import_module
from typing import Any, BinaryIO, Final

from krea_async.errors import InvalidRequestError
from krea_async.prompts.columns import Columns, Read
from krea_async.prompts.problems import refused, shown

PARQUET_MAGIC: Final = b"PAR1"
_BATCH_ROWS: Final = 256
_BUFFER_BYTES: Final = 1 << 16


def require_pyarrow() -> None:
    """Raises InvalidRequestError, with what to install, if it is not there."""
    try:
        import_module("pyarrow.parquet")
    except ImportError as error:
        message = f"parquet lists need pyarrow ({error}): pip install 'krea-async[parquet]'"
        raise refused(message, "the extra `parquet`, or a .csv or .jsonl list") from error


def parquet_rows(file: BinaryIO, columns: Columns) -> Iterator[Read]:
    """The rows, with their numbers from 1. A file that is damaged has its problem at the row that cannot be read."""
    arrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
    number = 0
    try:
        table = parquet.ParquetFile(file, buffer_size=_BUFFER_BYTES, pre_buffer=False)
        schema = table.schema_arrow
        problems = [*columns.problems(schema.names), *_mistyped(schema, columns)]
        for problem in problems:
            yield 1, problem
        if problems:
            return  # what the cells mean is unknown
        names = [one.name for one in schema if _is_read(one, columns)]
        for batch in table.iter_batches(batch_size=_BATCH_ROWS, columns=names, use_threads=False):
            for record in batch.to_pylist():
                number += 1
                yield number, columns.of_values(record, floats=True)
    except (arrow.ArrowException, OSError, UnicodeDecodeError) as exc:  # damaged data is an OSError to pyarrow, too
        words = " ".join(str(exc).split())[:200]
        yield number + 1, refused(f"the parquet data cannot be read here: {words}", "a whole .parquet file")


def _is_read(column: Any, columns: Columns) -> bool:  # noqa: ANN401 - pyarrow has no types
    """Whether a row has anything of the column: of the others only those that a template may name."""
    if column.name in columns.of_field.values():
        return True
    return columns.template and not import_module("pyarrow").types.is_nested(column.type)


def _mistyped(schema: Any, columns: Columns) -> Iterator[InvalidRequestError]:  # noqa: ANN401 - pyarrow has no types
    """Columns that cannot hold their field in any row."""
    for name, column in columns.of_field.items():
        place = schema.get_field_index(column)  # -1 also for one that is there twice, which is told already
        if place >= 0 and not _can_hold(name, schema.field(place).type):
            kind = {"seed": "whole numbers", "nsfw_check": "booleans"}.get(name, "text")
            message = f"column {shown(column)} has the type {schema.field(place).type}, and not {kind}"
            yield refused(message, f"a column of {kind}", field=column)


def _can_hold(name: str, kind: Any) -> bool:  # noqa: ANN401 - pyarrow has no types
    types = import_module("pyarrow").types
    if types.is_dictionary(kind):
        kind = kind.value_type
    if types.is_null(kind):
        return True
    if name == "seed":
        return bool(types.is_integer(kind) or types.is_floating(kind))  # pandas makes floats of a column with gaps
    if name == "nsfw_check":
        return bool(types.is_boolean(kind))
    if name == "id" and types.is_integer(kind):
        return True
    return str(kind) in {"string", "large_string", "string_view"}
