"""The options of lists on the command line: each reaches the list, and a wrong one says what is allowed."""

from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from krea_async.cli.options.sheet import SheetOptions, sheet_options
from krea_async.errors import InvalidRequestError


@click.command()
@click.argument("paths", nargs=-1)
@sheet_options
def show(paths: tuple[str, ...], **options: Any) -> None:
    """Prints every problem, then every row."""
    sheet = SheetOptions.taken_from(options)
    if options:
        raise AssertionError(options)
    try:
        with sheet.open(paths) as rows:
            for problem in rows.check():
                click.echo(str(problem))
            for one in rows.preview(100):
                row = one.request
                click.echo(f"{one.index} {row.prompt} {row.size} {row.quality} {row.seed} {row.nsfw_check} {row.id}")
    except InvalidRequestError as error:
        raise click.UsageError(str(error)) from error


def run(*arguments: str, stdin: str | bytes | None = None) -> Result:
    return CliRunner().invoke(show, arguments, input=stdin)


def test_without_options_a_list_is_as_it_stands() -> None:
    assert run("-", stdin="a {b|c}\n").output == "0 a {b|c} 1:1 1K None False None\n"


@pytest.mark.parametrize(
    ("arguments", "stdin", "wanted"),
    [
        (["--size", "16:9", "--quality", "2K", "--seed", "7", "--nsfw-check"], "a\n", ["0 a 16:9 2K 7 True None"]),
        (["--sizes", "1:1, 2:1"], "a\n", ["0 a 1:1 1K None False None", "1 a 2:1 1K None False None"]),
        (["--seeds", "1..2"], "a\n", ["0 a 1:1 1K 1 False None", "1 a 1:1 1K 2 False None"]),
        (["--qualities", "2K"], "a\n", ["0 a 1:1 2K None False None"]),
        (["--template"], "{a|b}\n", ["0 a 1:1 1K None False None", "1 b 1:1 1K None False None"]),
        (["--format", "csv", "--prompt-col", "t", "--id-col", "k"], "t,k\na,x\n", ["0 a 1:1 1K None False x"]),
        (
            ["--format", "tsv", "--size-col", "s", "--quality-col", "q", "--seed-col", "n"],
            "prompt\ts\tq\tn\na\t2:1\t2K\t7\n",
            ["0 a 2:1 2K 7 False None"],
        ),
        (["--format", "openai-batch"], '{"custom_id": "k", "body": {"prompt": "a"}}', ["0 a 1:1 1K None False k"]),
        (["--shard", "1/1"], "a\n", ["0 a 1:1 1K None False None"]),
    ],
)
def test_each_option_reaches_the_list(arguments: list[str], stdin: str, wanted: list[str]) -> None:
    result = run("-", *arguments, stdin=stdin)
    assert result.output.splitlines() == wanted
    assert result.exit_code == 0


def test_the_encoding_reaches_the_list() -> None:
    assert run("-", "--encoding", "cp1252", stdin=b"caf\xe9\n").output.startswith("0 café ")
    assert "give --encoding cp1252" in run("-", stdin=b"caf\xe9\n").output


def test_several_lists_and_quoted_globs_are_one(tmp_path: Path) -> None:
    for name in ("2", "10", "1"):
        (tmp_path / f"{name}.txt").write_text(f"{name}\n")
    result = run(str(tmp_path / "1.txt"), str(tmp_path / "*.txt"))
    assert [line.split()[:2] for line in result.output.splitlines()] == [["0", "1"], ["1", "2"], ["2", "10"]]


def test_a_callback_url_is_for_rows_without_one() -> None:
    assert "credentials" in run("-", "--callback-url", "https://user:secret@x.example/", stdin="a\n").output
    assert run("-", "--callback-url", "https://x.example/cb", stdin="a\n").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--size", "16x9"], "did you mean '16:9'?"),
        (["--sizes", "16x9"], "did you mean '16:9'?"),
        (["--sizes", "1:1,,2:1"], "size '' is not one of"),
        (["--qualities", "1K,2k"], "did you mean '2K'?"),
        (["--quality", "3K"], "1K"),
        (["--seeds", "1-8"], "did you mean '1..8'?"),
        (["--seed", "-1"], "seed -1 is not a whole number from 0 to 1048576"),
        (["--shard", "3/2"], "such as 2/5"),
        (["--format", "json"], "did you mean 'jsonl'?"),
        (["--encoding", "utf-16"], "iconv -f utf-16 -t UTF-8"),
        (["--size", "1:1", "--sizes", "1:1,2:1"], "give --size for all rows, or --sizes for several pictures of each"),
        (["--seed", "1", "--seeds", "1..2"], "give --seed for all rows, or --seeds"),
        (["--quality", "1K", "--qualities", "1K"], "or --qualities"),
        (["--prompt-col", "x"], "no columns that could be named"),
    ],
)
def test_a_mistake_says_what_is_allowed(arguments: list[str], told: str) -> None:
    result = run("-", *arguments, stdin="a\n")
    assert result.exit_code == 2
    assert told in result.output
    assert not isinstance(result.exception, InvalidRequestError)


def test_a_missing_list_says_so(tmp_path: Path) -> None:
    assert "does not exist" in run(str(tmp_path / "p.txt")).output
    assert "no file matches" in run(str(tmp_path / "*.txt")).output
    assert "no list is named" in run().output


@pytest.mark.parametrize(
    ("file", "arguments", "sizes"),
    [
        ({"size": "2:1"}, [], ["2:1"]),
        ({"size": "2:1"}, ["--sizes", "1:1,16:9"], ["1:1", "16:9"]),
        ({"sizes": "1:1,16:9"}, ["--size", "2:1"], ["2:1"]),
    ],
)
def test_the_command_line_wins_over_a_default_of_the_other_kind(
    file: dict[str, str], arguments: list[str], sizes: list[str]
) -> None:
    result = CliRunner().invoke(show, ["-", *arguments], input="a\n", default_map=file)
    assert [line.split()[2] for line in result.output.splitlines()] == sizes
    both = CliRunner().invoke(show, ["-"], input="a\n", default_map={"size": "2:1", "sizes": "1:1,16:9"})
    assert "give --size for all rows, or --sizes" in both.output
