"""Which of the words after `render` are lists, and which is the directory."""

from pathlib import Path

import click
import pytest

from krea_async.cli.options.paths import told_apart


@pytest.fixture(autouse=True)
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.txt", "b.txt", "plain"):
        (tmp_path / name).write_text("a fox\n")
    (tmp_path / "folder").mkdir()
    (tmp_path / "odd.txt").mkdir()


@pytest.mark.parametrize(
    ("words", "lists", "directory"),
    [
        (["a.txt"], ["a.txt"], None),
        (["renders"], ["renders"], None),
        (["a.txt", "renders"], ["a.txt"], "renders"),
        (["a.txt", "renders/"], ["a.txt"], "renders"),
        (["a.txt", "folder"], ["a.txt"], "folder"),
        (["a.txt", "odd.txt"], ["a.txt"], "odd.txt"),
        (["a.txt", "b.txt"], ["a.txt", "b.txt"], None),
        (["a.txt", "b.txt", "out/2026"], ["a.txt", "b.txt"], "out/2026"),
        (["-", "renders"], ["-"], "renders"),
        (["a.txt", "-"], ["a.txt", "-"], None),
        (["a.txt", "plain"], ["a.txt", "plain"], None),
        (["a.txt", "lists/*.csv"], ["a.txt", "lists/*.csv"], None),
        (["a.txt", "mistyped.txt"], ["a.txt", "mistyped.txt"], None),
        (["a.txt", "mistyped.jsonl.gz"], ["a.txt", "mistyped.jsonl.gz"], None),
    ],
)
def test_the_last_word_is_the_directory_if_it_is_no_list(
    words: list[str], lists: list[str], directory: str | None
) -> None:
    found, where = told_apart((*words,), None)
    assert ([*found], where) == (lists, None if directory is None else Path(directory))


def test_with_out_every_word_is_a_list() -> None:
    assert told_apart(("a.txt", "b.txt"), Path("x")) == (("a.txt", "b.txt"), Path("x"))
    with pytest.raises(click.UsageError, match="name the directory once: as folder or with --out"):
        told_apart(("a.txt", "folder"), Path("x"))
