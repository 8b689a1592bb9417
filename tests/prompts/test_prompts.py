"""Prompt lists: every form is read, every bad row is named, and nothing grows with the list."""

import csv
import io
import json
import os
import threading
import tracemalloc
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from krea_async.errors import InvalidRequestError
from krea_async.models import REQUEST_FIELDS, ImageRequest
from krea_async.prompts import MAX_LINE_BYTES, Format, PromptList, RowProblem

# The first draw of a run is slow: hypothesis reads the sources for interesting constants.
calm = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

Write = Callable[[str, str | bytes], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


def requests(path: Path | str, *, stdin: BinaryIO | None = None, format: Format | None = None) -> list[ImageRequest]:  # noqa: A002
    with PromptList.open(path, stdin=stdin, format=format) as prompts:
        assert list(prompts.check()) == []
        rows = list(prompts)
    assert prompts.rows == len(rows)
    return [row for row in rows if isinstance(row, ImageRequest)]


def problems(path: Path | str, *, stdin: BinaryIO | None = None) -> list[RowProblem]:
    with PromptList.open(path, stdin=stdin) as prompts:
        return list(prompts.check())


def test_txt_has_a_prompt_per_line_comments_and_blank_lines(write: Write) -> None:
    path = write("p.txt", "# a comment\n\na fox\n   \n  a cat  \n  # indented\n#\nno # comment\nlast")
    assert requests(path) == [ImageRequest(p) for p in ("a fox", "a cat", "no # comment", "last")]


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "bom"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r\r\n"], ids=["lf", "crlf", "crcrlf"])
@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("p.txt", ["# c", "a füchs 🦊"]),
        ("p.jsonl", ['{"prompt": "a füchs 🦊"}']),
        ("p.csv", ["prompt", "a füchs 🦊"]),
        ("p.TSV", ["prompt", "a füchs 🦊"]),
    ],
)
def test_byte_order_mark_and_line_ends_do_not_matter(
    write: Write, mark: bytes, end: bytes, name: str, lines: list[str]
) -> None:
    path = write(name, mark + end.join(line.encode() for line in lines) + end)
    assert requests(path) == [ImageRequest("a füchs 🦊")]


def test_joined_lists_keep_their_comments(write: Write) -> None:
    assert requests(write("p.txt", "\ufeff# one\na\n\ufeff# two\n\ufeffb\n")) == [ImageRequest("a"), ImageRequest("b")]


def test_only_line_feeds_end_a_line(write: Write) -> None:
    assert requests(write("p.txt", "a\u2028b\x0bc\x85d\n")) == [ImageRequest("a\u2028b\x0bc\x85d")]


def test_jsonl_has_objects_and_texts(write: Write) -> None:
    full = {
        "prompt": "a",
        "size": "16:9",
        "quality": "2K",
        "seed": 7,
        "nsfw_check": True,
        "callback_url": "https://example.com/cb",
        "id": "row",
    }
    path = write("p.jsonl", f'{json.dumps(full)}\n\n"b"\n{{"prompt": "c", "seed": null, "size": null}}\n')
    assert requests(path) == [
        ImageRequest(
            "a", size="16:9", quality="2K", seed=7, nsfw_check=True, callback_url="https://example.com/cb", id="row"
        ),
        ImageRequest("b"),
        ImageRequest("c"),
    ]


@pytest.mark.parametrize("name", ["p.csv", "p.tsv"])
def test_tables_have_a_header_and_empty_cells_are_not_given(write: Write, name: str) -> None:
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, delimiter="," if name == "p.csv" else "\t")
    writer.writerows(
        [
            ["seed", "prompt", "size", "nsfw_check", "quality", "id"],
            ["007", 'say "hi", fox\tnow', "2:1", "Yes", " 2K ", "x.1"],
            ["", "b", "", "", "", ""],
            ["", "", "", "", "", ""],
            [],
            ["1", "c"],
        ]
    )
    assert requests(write(name, buffer.getvalue())) == [
        ImageRequest('say "hi", fox\tnow', size="2:1", quality="2K", seed=7, nsfw_check=True, id="x.1"),
        ImageRequest("b"),
        ImageRequest("c", seed=1),
    ]


@pytest.mark.parametrize(
    ("cell", "flag"), [(c, True) for c in ("true", "TRUE", "1", "yes")] + [(c, False) for c in ("False", "0", "nO", "")]
)
def test_nsfw_check_cells(write: Write, cell: str, flag: bool) -> None:
    assert requests(write("p.csv", f"prompt,nsfw_check\na,{cell}\n")) == [ImageRequest("a", nsfw_check=flag)]


def test_a_quoted_cell_spans_lines_and_the_problem_names_the_first(write: Write) -> None:
    path = write("p.csv", '\nprompt,size\r\n"a\r\nb, ""c""",1:1\r\n\r\n"d\ne",16x9\nf,9x16\n')
    with PromptList.open(path) as prompts:
        found = list(prompts.check())
        first = next(iter(prompts))
    assert [(p.line, p.field, p.value) for p in found] == [(6, "size", "16x9"), (8, "size", "9x16")]
    assert first == ImageRequest('a\nb, "c"')
    assert prompts.rows == 3


def test_a_problem_is_one_line_with_file_line_field_value_and_allowed(write: Write) -> None:
    path = write("p.jsonl", '"fine"\n{"prompt": "a", "size": "16x9"}\n')
    [problem] = problems(path)
    assert problem == RowProblem(
        file=str(path),
        line=2,
        field="size",
        value="16x9",
        allowed="one of 1:1, 4:3, 3:4, 5:4, 4:5, 2:3, 3:2, 9:16, 16:9, 1:2, 2:1",
        message="size '16x9' is not one of 1:1, 4:3, 3:4, 5:4, 4:5, 2:3, 3:2, 9:16, 16:9, 1:2, 2:1; "
        "did you mean '16:9'?",
    )
    assert str(problem) == f"{path}:2: {problem.message}"


@pytest.mark.parametrize(
    ("name", "content", "line", "told"),
    [
        ("p.txt", b"ok\ncaf\xe9\n", 2, "byte 0xe9 at place 4 is not UTF-8"),
        ("p.txt", b"ok\na\0b\n", 2, "NUL"),
        ("p.txt", b"a\rb\rc", 1, "carriage return"),
        ("p.txt", "a fox\n".encode("utf-16"), 1, "UTF-16"),
        ("p.jsonl", '"a fox"\n'.encode("utf-16-le"), 1, "UTF-16"),
        ("p.csv", "prompt\na\n".encode("utf-16-be"), 1, "UTF-16"),
        ("p.csv", "prompt\na\n".encode("utf-32"), 1, "UTF-32"),
        ("p.txt", b"ok\n" + b"x" * (MAX_LINE_BYTES + 1) + b"\n", 2, "1 MiB"),
        ("p.txt", b"ok\n" + b"x" * (5 * MAX_LINE_BYTES), 2, "1 MiB"),
        ("p.jsonl", b'ok"\n', 1, "not JSON"),
        ("p.jsonl", b'"ok"\n[1]\n', 2, "a list"),
        ("p.jsonl", b'"ok"\nnull\n', 2, "a NoneType"),
        ("p.jsonl", b'{"prompt": "a", "sise": "1:1"}\n', 1, "'sise'"),
        ("p.jsonl", b'{"size": "1:1"}\n', 1, "prompt None"),
        ("p.jsonl", b'{"prompt": "a", "seed": true}\n', 1, "seed True"),
        ("p.jsonl", b'{"prompt": "a", "seed": 7.0}\n', 1, "seed 7.0"),
        ("p.jsonl", b'{"prompt": "a", "seed": ' + b"9" * 5000 + b"}\n", 1, "digits"),
        ("p.jsonl", b"[" * 100_000 + b"\n", 1, "recursion"),
        ("p.jsonl", b'{"prompt": "\\ud800"}\n', 1, "surrogate"),
        ("p.csv", b"prompt,size\na,1:1,x\n", 2, "3 cells, the header 2"),
        ("p.csv", b"prompt,seed\na,12a\n", 2, "seed '12a'"),
        ("p.csv", b"prompt,seed\na,-1\n", 2, "seed '-1'"),
        ("p.csv", "prompt,seed\na,٣\n".encode(), 2, "seed '٣'"),
        ("p.csv", b"prompt,seed\na," + b"9" * 5000 + b"\n", 2, "seed '999"),
        ("p.csv", b"prompt,nsfw_check\na,maybe\n", 2, "nsfw_check 'maybe'"),
        ("p.csv", b"prompt,size\n ,1:1\n", 2, "prompt ''"),
        ("p.csv", b"size,prompt\n1:1\n", 2, "prompt ''"),
        ("p.csv", b'prompt\na\n"b"c\nd\n', 3, "quote"),
        ("p.csv", b'prompt\na\n"b\nc\n', 3, "quote"),
        ("p.csv", b'prompt\n"b\n\xe9"\nc\n', 2, "not UTF-8"),
        ("p.csv", b"prompt\n" + b'"' + b"a\n" * 100_000, 2, "quote"),
        ("p.csv", b"prompt,sise\na,1:1\n", 1, "'sise'"),
        ("p.csv", b"prompt\tsize\na\t1:1\n", 1, "no column 'prompt'"),
        ("p.csv", b"prompt,\na,\n", 1, "unknown column ''"),
        ("p.csv", b"prompt,size,prompt\na,1:1,b\n", 1, "'prompt' is there 2 times"),
        ("p.csv", b"size\n1:1\n", 1, "no column 'prompt'"),
        ("p.tsv", b"prompt\tsize\na\t16x9\n", 2, "size '16x9'"),
        ("p.csv", b"prompt\n\n", 1, "no prompt"),
        ("p.csv", b"", 1, "no prompt"),
        ("p.txt", b"# only\n\n", 1, "no prompt"),
        ("p.jsonl", b"\xef\xbb\xbf", 1, "no prompt"),
    ],
)
def test_bad_rows_are_named(write: Write, name: str, content: bytes, line: int, told: str) -> None:
    found = problems(write(name, content))
    assert line in {problem.line for problem in found}
    assert told in " ".join(problem.message for problem in found)
    assert all("\n" not in str(problem) and len(str(problem)) < 1000 for problem in found)


@pytest.mark.parametrize(
    ("name", "content"), [("p.jsonl", '{"prompt": "a", "x": 1}'), ("p.csv", "prompt,x\na,1\n"), ("p.csv", "x\n1\n")]
)
def test_unknown_fields_come_with_the_known_ones(write: Write, name: str, content: str) -> None:
    found = [problem for problem in problems(write(name, content)) if problem.field == "x"]
    assert all(field in str(found[0]) for field in REQUEST_FIELDS)


@pytest.mark.parametrize("depth", range(100, 1000, 20))
def test_nested_values_are_a_row_problem_at_any_depth(write: Write, depth: int) -> None:
    [problem] = problems(write("p.jsonl", f'{{"prompt": "a", "size": {"[" * depth}{"]" * depth}}}'))
    assert problem.line == 1


def test_every_bad_row_of_a_long_list_is_found_and_the_good_rows_after_it_are_read(write: Write) -> None:
    lines = [f'{{"prompt": "row {n}"}}' for n in range(1, 10_001)]
    lines[2], lines[699], lines[9_998] = '{"prompt": ""}', "{", '{"prompt": "x", "seed": -1}'
    path = write("p.jsonl", "\n".join(lines))
    with PromptList.open(path) as prompts:
        assert [problem.line for problem in prompts.check()] == [3, 700, 9_999]
        assert prompts.rows == 10_000
        rows = list(prompts)
    assert sum(isinstance(row, ImageRequest) for row in rows) == 9_997
    assert rows[9_999] == ImageRequest("row 10000")


def test_a_line_of_the_limit_is_read_and_the_line_after_a_longer_one_too(write: Write) -> None:
    longest = "x" * (MAX_LINE_BYTES - 1)
    assert requests(write("p.txt", f"{longest}\nnext")) == [ImageRequest(longest), ImageRequest("next")]
    with PromptList.open(write("p.txt", f"xx{longest}\n{longest * 3}\nnext")) as prompts:
        assert [problem.line for problem in prompts.check()] == [1, 2]
        assert list(prompts)[2:] == [ImageRequest("next")]


def test_a_broken_row_does_not_spoil_the_next(write: Write) -> None:
    path = write("p.csv", 'prompt,size\n"a"b,1:1\nc,1:1\nd\xff,1:1\ne,1:1\n'.encode("latin-1"))
    with PromptList.open(path) as prompts:
        assert [problem.line for problem in prompts.check()] == [2, 4]
        assert [row for row in prompts if isinstance(row, ImageRequest)] == [ImageRequest("c"), ImageRequest("e")]


def test_an_open_quote_is_bounded_even_if_a_library_lifted_the_parsers_limit(write: Write) -> None:
    before = csv.field_size_limit(1 << 40)
    try:
        with PromptList.open(write("p.csv", b'prompt\n"' + (b"x" * 999 + b"\n") * 2000)) as prompts:
            assert [problem.line for problem in prompts.check()] == [2]
    finally:
        csv.field_size_limit(before)
    assert 2000 - prompts.rows == pytest.approx(MAX_LINE_BYTES / 1000, abs=3)


def test_totals_price_the_run(write: Write) -> None:
    lines = ['"a"'] * 1000 + ['{"prompt": "b", "quality": "2K"}'] * 10 + ['{"prompt": "b", "quality": "3K"}']
    with PromptList.open(write("p.jsonl", "\n".join(lines))) as prompts:
        assert (prompts.rows, prompts.credits, prompts.usd) == (0, 0.0, 0.0)
        assert len(list(prompts.check())) == 1
        assert prompts.rows == 1011
        assert prompts.credits == pytest.approx(468.0)
        assert prompts.usd == pytest.approx(6.97)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"a fox", "txt"),
        (b"# {", "txt"),
        (b"", "txt"),
        (b"[1]", "txt"),
        (b'{"prompt": "a"}', "jsonl"),
        (b"\xef\xbb\xbf\r\n" + b"  \n" * 50_000 + b'"a"', "jsonl"),
    ],
)
def test_standard_input_says_what_it_is_by_its_first_character(content: bytes, kind: str) -> None:
    with PromptList.open("-", stdin=io.BytesIO(content)) as prompts:
        assert prompts.format == kind


def test_standard_input_is_read_twice_and_left_open() -> None:
    stdin = io.BytesIO(b"prompt,size\na,1:1\nb,16x9\n")
    with PromptList.open("-", stdin=stdin, format="csv") as prompts:
        assert [str(problem).partition(" is")[0] for problem in prompts.check()] == ["<stdin>:3: size '16x9'"]
        assert next(iter(prompts)) == ImageRequest("a")
    assert not stdin.closed


def test_a_pipe_is_read_twice(tmp_path: Path) -> None:
    pipe = tmp_path / "p.txt"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=("a\nb\n",))
    writer.start()
    try:
        assert requests(pipe) == [ImageRequest("a"), ImageRequest("b")]
    finally:
        writer.join()


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("missing.txt", "does not exist"),
        ("", "is a directory"),
        ("p.xlsx", "allowed: .txt, .jsonl, .csv, .tsv"),
        ("p", "allowed: .txt, .jsonl, .csv, .tsv"),
        ("nul\0.txt", "cannot be opened"),
        ("x" * 300 + ".txt", "cannot be opened"),
    ],
)
def test_what_cannot_be_opened_says_what_to_do(tmp_path: Path, name: str, told: str) -> None:
    (tmp_path / "p.xlsx").touch()
    with pytest.raises(InvalidRequestError) as caught:
        PromptList.open(tmp_path / name)
    assert told in str(caught.value)
    assert caught.value.value == str(tmp_path / name)
    assert caught.value.allowed


def test_format_overrules_the_extension(write: Write) -> None:
    assert requests(write("p.list", "prompt\na\n"), format="csv") == [ImageRequest("a")]


def test_odd_file_names_stay_on_one_line(write: Write) -> None:
    [problem] = problems(write("a\nb.txt", "\0x"))
    assert "\n" not in str(problem)


def test_a_row_that_turns_bad_while_the_list_is_read_is_an_error_value(write: Write) -> None:
    lines = [f'{{"prompt": "{"a" * 1000}", "seed": {n}}}\n' for n in range(500)]
    path = write("p.jsonl", "".join(lines))
    with PromptList.open(path) as prompts:
        assert not list(prompts.check())
        reading = iter(prompts)
        next(reading)
        path.write_text("".join(lines).replace('"seed": 498}', '"seed": x}  '))
        *_, second, third = reading
    assert third == ImageRequest("a" * 1000, seed=499)
    assert isinstance(second, InvalidRequestError)
    assert second.message.startswith(f"{path}:499: the line is not JSON")


def test_a_list_replaced_by_rename_is_rendered_as_it_was_checked(write: Write) -> None:
    path = write("p.txt", "a\n")
    with PromptList.open(path) as prompts:
        assert not list(prompts.check())
        write("q.txt", "b\n").replace(path)
        assert list(prompts) == [ImageRequest("a")]


def test_closing_twice_is_fine_and_an_abandoned_check_too(write: Write) -> None:
    prompts = PromptList.open(write("p.txt", "\0\n\0\nc\n"))
    next(prompts.check())
    assert list(prompts)[-1:]
    prompts.close()
    prompts.close()


def peak_bytes(path: Path) -> int:
    tracemalloc.start()
    try:
        with PromptList.open(path) as prompts:
            for _ in chain(prompts.check(), prompts):
                pass
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("name", "head", "row", "rows"),
    [
        ("p.txt", "", "a fox in the snow\n", 100_000),
        ("p.jsonl", "", '{"prompt": "a fox", "seed": 7}\n', 10_000),
        ("p.csv", "prompt,seed\n", '"a\nfox",7\n', 10_000),
        ("p.jsonl", "", "{broken\n", 10_000),
    ],
    ids=["txt", "jsonl", "csv", "broken"],
)
def test_memory_does_not_grow_with_the_list(write: Write, name: str, head: str, row: str, rows: int) -> None:
    peak_bytes(write(name, head + row))  # what is made once is made here
    short = peak_bytes(write(name, head + row * 1_000))
    assert peak_bytes(write(name, head + row * rows)) < short + 100_000


def test_memory_does_not_grow_with_a_line(write: Write) -> None:
    assert peak_bytes(write("p.txt", b"x" * (30 * MAX_LINE_BYTES))) < 6 * MAX_LINE_BYTES


def mixtures() -> st.SearchStrategy[bytes]:
    parts = st.sampled_from(
        [b'"', b",", b"\t", b"\n", b"\r\n", b"{", b"}", b'{"prompt": "a"}', b"prompt", b"\xef\xbb\xbf"]
    )
    return st.lists(parts | st.binary(max_size=6), max_size=30).map(b"".join)


@given(
    content=mixtures(), format=st.sampled_from(["txt", "jsonl", "csv", "tsv"]), head=st.sampled_from([b"", b"prompt\n"])
)
@settings(calm, max_examples=300)
def test_any_bytes_are_rows_or_problems(content: bytes, format: Format, head: bytes) -> None:  # noqa: A002
    """Both passes agree: as many errors in the second as problems in the first (but for an empty list)."""
    with PromptList.open("-", stdin=io.BytesIO(head + content), format=format) as prompts:
        found = list(prompts.check())
        rows = list(prompts)
    assert prompts.rows == len(rows)
    assert [str(row) for row in rows if isinstance(row, InvalidRequestError)] == [str(p) for p in found][: len(rows)]
    assert all(len(str(problem).splitlines()) == 1 for problem in found)


@given(
    prompts=st.lists(
        st.text(st.characters(exclude_characters="\0\r", exclude_categories=["Cs"]), min_size=1), min_size=1
    )
)
@settings(calm, max_examples=200)
def test_what_the_csv_module_writes_comes_back(prompts: list[str]) -> None:
    wanted = [prompt.strip() for prompt in prompts if prompt.strip()]
    buffer = io.StringIO(newline="")
    csv.writer(buffer, quoting=csv.QUOTE_ALL).writerows([["prompt"], *([prompt] for prompt in wanted)])
    if wanted:
        with PromptList.open("-", stdin=io.BytesIO(buffer.getvalue().encode()), format="csv") as found:
            assert [row.prompt for row in found if isinstance(row, ImageRequest)] == wanted
