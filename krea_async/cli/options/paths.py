"""What `render` and `estimate` are given: lists of prompts and, as the last word, perhaps a directory."""

from pathlib import Path
from typing import Final

import click

LIST_SUFFIXES: Final = frozenset({".txt", ".jsonl", ".csv", ".tsv", ".parquet", ".gz", ".json"})
_WILD: Final = frozenset("*?[")


def told_apart(words: tuple[str, ...], out: Path | None) -> tuple[tuple[str, ...], Path | None]:
    """The lists and the directory. Raises UsageError when the directory is there twice.

    The last of several words is the directory if it is one, or if it is neither a file nor looks like a list or a
    pattern: a list whose name is mistyped must not become a directory.
    """
    *lists, last = words
    if not lists or not _is_directory(last):
        return words, out
    if out is not None:
        raise click.UsageError(f"name the directory once: as {last} or with --out")
    return (*lists,), Path(last)


def _is_directory(word: str) -> bool:
    path = Path(word)
    if path.is_dir():
        return True
    return word != "-" and not (path.exists() or _WILD & {*word} or path.suffix.lower() in LIST_SUFFIXES)
