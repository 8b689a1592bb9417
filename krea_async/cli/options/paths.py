"""What `render` and `estimate` are given: lists of prompts and, as the last word, perhaps a directory."""

import os
from pathlib import Path
from typing import Final

import click

from krea_async.cli.options.choices import EMPTY_PATH

LIST_SUFFIXES: Final = frozenset({".txt", ".jsonl", ".csv", ".tsv", ".parquet", ".gz", ".json"})
_WILD: Final = frozenset("*?[")


def told_apart(words: tuple[str, ...], out: Path | None) -> tuple[tuple[str, ...], Path | None]:
    """The lists and the directory. Raises UsageError when the directory is there twice.

    The last of several words is the directory if it is one, or if it is neither a file nor looks like a list or a
    pattern: a list whose name is mistyped must not become a directory.
    """
    if "" in words:
        raise click.UsageError(EMPTY_PATH)
    *lists, last = words
    if not lists or not _is_directory(last):
        return words, out
    if out is not None:
        raise click.UsageError(f"name the directory once: as {last} or with --out")
    return (*lists,), Path(last)


def _is_directory(word: str) -> bool:
    if os.path.isdir(word):  # noqa: PTH112 - Path.is_dir raises where this user may not look
        return True
    is_there = os.path.exists(word)  # noqa: PTH110
    return word != "-" and not (is_there or _WILD & {*word} or Path(word).suffix.lower() in LIST_SUFFIXES)
