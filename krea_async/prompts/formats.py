"""Rows out of lines: .txt and .jsonl."""

import json
from collections.abc import Iterator
from typing import Any

from krea_async.errors import InvalidRequestError
from krea_async.prompts.columns import FIELDS, Columns, Read, Row
from krea_async.prompts.openai_batch import is_openai_line, openai_row
from krea_async.prompts.problems import SHOWN_CHARS, refused
from krea_async.prompts.text import Line


def txt_rows(lines: Iterator[Line], _columns: Columns) -> Iterator[Read]:
    """A prompt per line; blank lines and those that begin with # are left out."""
    for number, text in lines:
        if isinstance(text, InvalidRequestError):
            yield number, text
        elif (prompt := text.strip()) and not prompt.startswith("#"):
            yield number, Row({"prompt": prompt})


def jsonl_rows(lines: Iterator[Line], columns: Columns) -> Iterator[Read]:
    """An object, a text, or a line of OpenAI's batch form per line."""
    unmet = set(columns.mapping.values())
    number = 0
    for number, content in _contents(lines):
        if isinstance(content, InvalidRequestError):
            yield number, content
        elif isinstance(content, str):
            yield number, Row({"prompt": content})
        elif not columns.mapping and is_openai_line(content):
            yield number, openai_row(content)
        else:
            unmet.difference_update(content)
            yield number, columns.of_values(content)
    for column in sorted(unmet) if number else ():
        yield number, refused(f"no row has a {column!r}", "a name of the rows' objects", field=column)


def openai_rows(lines: Iterator[Line], _columns: Columns) -> Iterator[Read]:
    """A line of OpenAI's batch form per line, and nothing else."""
    for number, content in _contents(lines):
        if isinstance(content, InvalidRequestError):
            yield number, content
        elif isinstance(content, str):
            yield number, refused("the line is a text", "an object with custom_id and body", value=content)
        else:
            yield number, openai_row(content)


def _contents(lines: Iterator[Line]) -> Iterator[tuple[int, str | dict[str, Any] | InvalidRequestError]]:
    for number, text in lines:
        if isinstance(text, InvalidRequestError):
            yield number, text
        elif text.strip():
            yield number, _content(text)


def _content(text: str) -> str | dict[str, Any] | InvalidRequestError:
    try:
        content = json.loads(text)
    except json.JSONDecodeError as exc:
        wrong = f"the line is not JSON: {exc.msg} at place {exc.pos + 1}"
    except (ValueError, RecursionError) as exc:  # a number of thousands of digits; nesting without end
        wrong = f"the line cannot be read as JSON: {exc}"
    else:
        if isinstance(content, dict | str):
            return content
        wrong = f"the line is JSON, but a {type(content).__name__}"
    return refused(wrong, f'an object of {FIELDS}, or a "text"', value=text[:SHOWN_CHARS])
