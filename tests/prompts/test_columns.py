"""Columns by other names, other columns, other encodings, and what is said to people who mistyped."""

from pathlib import Path
from typing import Any

import pytest
from sheets import problems_of, prompts_of, rows_of, sheet

from krea_async.errors import InvalidRequestError
from krea_async.models import ImageRequest
from krea_async.prompts import PromptList, SheetPolicy


def mapped(**columns: str) -> SheetPolicy:
    return SheetPolicy(columns=columns)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.csv", "caption,ratio,key,note,prompt,size\na fox,16:9,k,x,no,no\n"),
        ("p.tsv", "caption\tratio\tkey\tsize\na fox\t16:9\tk\tno\n"),
        ("p.jsonl", '{"caption": "a fox", "ratio": "16:9", "key": "k", "note": [1], "prompt": 7}\n'),
    ],
)
def test_a_mapped_column_is_the_field_and_others_are_left_out(tmp_path: Path, name: str, content: str) -> None:
    policy = mapped(prompt="caption", size="ratio", id="key")
    assert rows_of(sheet(tmp_path, name, content), policy=policy) == [ImageRequest("a fox", size="16:9", id="k")]


def test_columns_that_are_fields_keep_their_meaning_beside_a_mapping(tmp_path: Path) -> None:
    path = sheet(tmp_path, "p.csv", "caption,size,seed,other\na fox,16:9,7,x\n")
    assert rows_of(path, policy=mapped(prompt="caption")) == [ImageRequest("a fox", size="16:9", seed=7)]


def test_a_column_may_be_another_field_than_its_name_says(tmp_path: Path) -> None:
    path = sheet(tmp_path, "p.csv", "id,prompt\na fox,7\n")
    assert rows_of(path, policy=mapped(prompt="id", id="prompt")) == [ImageRequest("a fox", id="7")]
    assert rows_of(path, policy=mapped(prompt="id")) == [ImageRequest("a fox")]
    [problem] = problems_of(path, policy=mapped(id="prompt"))
    assert problem.message.startswith("the header has no column 'prompt'")


def test_one_column_may_be_two_fields(tmp_path: Path) -> None:
    path = sheet(tmp_path, "p.csv", "word\nfox\n")
    assert rows_of(path, policy=mapped(prompt="word", id="word")) == [ImageRequest("fox", id="fox")]


def test_numbers_are_ids(tmp_path: Path) -> None:
    path = sheet(tmp_path, "p.jsonl", '{"prompt": "a", "row": 7}\n')
    assert rows_of(path, policy=mapped(id="row")) == [ImageRequest("a", id="7")]


@pytest.mark.parametrize(
    ("name", "content", "policy", "line", "told"),
    [
        ("p.csv", "promt\na\n", None, 1, "unknown column 'promt'; did you mean 'prompt'?"),
        ("p.csv", "Prompt\na\n", None, 1, "unknown column 'Prompt'; did you mean 'prompt'?"),
        ("p.csv", "prompt,sise\na,1:1\n", None, 1, "unknown column 'sise'; did you mean 'size'?"),
        ("p.csv", "text\na\n", None, 1, "no column 'prompt'; name the one with the prompts, --prompt-col"),
        ("p.jsonl", '{"prompt": "a", "qualty": "2K"}\n', None, 1, "unknown field 'qualty'; did you mean 'quality'?"),
        ("p.csv", "caption\na\n", mapped(prompt="captoin"), 1, "no column 'captoin'; did you mean 'caption'?"),
        ("p.csv", "caption\na\n", mapped(prompt="caption", id="capton"), 1, "no column 'capton'"),
        (
            "p.jsonl",
            '{"caption": "a"}\n',
            mapped(prompt="captoin"),
            1,
            "there is no 'captoin'; did you mean 'caption'?",
        ),
        ("p.jsonl", '{"prompt": "a"}\n"b"\n', mapped(id="kye"), 2, "no row has a 'kye'"),
        ("p.csv", "a,a,prompt\n1,2,x\n", mapped(seed="a"), 1, "column 'a' is there 2 times"),
        ("p.csv", "caption\n\n \n,\n", mapped(prompt="caption"), 1, "no prompt"),
    ],
)
def test_what_was_meant_is_told(
    tmp_path: Path, name: str, content: str, policy: SheetPolicy | None, line: int, told: str
) -> None:
    found = [problem for problem in problems_of(sheet(tmp_path, name, content), policy=policy) if told in str(problem)]
    assert [problem.line for problem in found] == [line]


def test_unnamed_columns_do_no_harm_beside_a_mapping(tmp_path: Path) -> None:
    path = sheet(tmp_path, "p.csv", "caption,,\na fox,x,y\n")
    assert prompts_of(path, policy=mapped(prompt="caption")) == ["a fox"]


@pytest.mark.parametrize("name", ["p.txt", "p.txt.gz"])
def test_a_mapping_without_columns_would_be_without_effect(tmp_path: Path, name: str) -> None:
    path = sheet(tmp_path, name, "a\n")
    with pytest.raises(InvalidRequestError, match="a list of the kind txt has no columns"):
        PromptList.open(path, policy=mapped(prompt="caption"))


@pytest.mark.parametrize(
    "content",
    [
        'prompt;size\n"a fox, in snow; at dawn";16:9\nb;\n',
        '\ufeffprompt;size\r\n"a fox, in snow; at dawn";16:9\r\nb;\r\n',
        '\n\nprompt;size\n"a fox, in snow; at dawn";16:9\nb;\n',
        'prompt,size\n"a fox, in snow; at dawn",16:9\nb,\n',
    ],
)
def test_semicolons_are_understood_where_the_header_has_no_comma(tmp_path: Path, content: str) -> None:
    wanted = [ImageRequest("a fox, in snow; at dawn", size="16:9"), ImageRequest("b")]
    assert rows_of(sheet(tmp_path, "p.csv", content)) == wanted


@pytest.mark.parametrize("sign", [",", ";", "|", "\t"])
def test_the_delimiter_that_excel_is_told_of_is_taken(tmp_path: Path, sign: str) -> None:
    path = sheet(tmp_path, "p.csv", f"\ufeffsep={sign}\r\nprompt{sign}seed\r\na fox{sign}7\r\nb{sign}-1\r\n")
    [problem] = problems_of(path)
    assert (problem.line, problem.field) == (4, "seed")
    with PromptList.open(path) as rows:
        assert next(iter(rows)) == ImageRequest("a fox", seed=7)


def test_semicolons_in_prompts_are_text_where_the_header_has_one_column(tmp_path: Path) -> None:
    assert prompts_of(sheet(tmp_path, "p.csv", "prompt\na; b\n")) == ["a; b"]


def test_a_list_in_latin_1_says_what_to_do_and_can_be_read(tmp_path: Path) -> None:
    path = sheet(tmp_path, "p.csv", "prompt\ncafé\n€ sign\n".encode("cp1252"))
    found = problems_of(path)
    assert [problem.line for problem in found] == [2, 3]
    assert "byte 0xe9 at place 4 is not UTF-8" in found[0].message
    assert "iconv -f CP1252 -t UTF-8 IN > OUT, or give --encoding cp1252" in found[0].message
    assert prompts_of(path, policy=SheetPolicy(encoding="cp1252")) == ["café", "€ sign"]


def test_bytes_that_no_encoding_has_are_not_taken_for_latin_1(tmp_path: Path) -> None:
    path = sheet(tmp_path, "p.txt", b"caf\x81\xe9\n")
    [problem] = problems_of(path)
    assert "iconv" not in problem.message
    [problem] = problems_of(path, policy=SheetPolicy(encoding="cp1252"))
    assert problem.message.startswith("byte 0x81 at place 4 is not cp1252")


@pytest.mark.parametrize(
    "encoding", ["UTF-8", "utf8", "utf-8-sig", "latin-1", "shift_jis", "gb18030", "koi8-r", "ascii"]
)
def test_encodings_with_lines(tmp_path: Path, encoding: str) -> None:
    assert prompts_of(sheet(tmp_path, "p.txt", "a fox\r\nb\n"), policy=SheetPolicy(encoding=encoding)) == ["a fox", "b"]


@pytest.mark.parametrize(
    "encoding", ["utf-16", "utf-32-le", "cp500", "rot13", "hex", "zip", "nonsense", "", "a\0b", "punycode"]
)
def test_what_is_no_encoding_of_lines_is_refused(encoding: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        SheetPolicy(encoding=encoding)
    assert caught.value.field == "encoding"


def test_defaults_are_for_rows_that_say_nothing(tmp_path: Path) -> None:
    policy = SheetPolicy(defaults={"size": "16:9", "quality": "2K", "seed": 7, "nsfw_check": True})
    path = sheet(tmp_path, "p.csv", "prompt,size,quality,seed,nsfw_check\na,1:1,1K,1,false\nb,,,,\n")
    assert rows_of(path, policy=policy) == [
        ImageRequest("a", size="1:1", quality="1K", seed=1),
        ImageRequest("b", size="16:9", quality="2K", seed=7, nsfw_check=True),
    ]
    path = sheet(tmp_path, "p.jsonl", '{"prompt": "a", "seed": null, "nsfw_check": false, "size": "1:1"}\n"b"\n')
    assert [(row.size, row.seed, row.nsfw_check) for row in rows_of(path, policy=policy)] == [
        ("1:1", 7, False),
        ("16:9", 7, True),
    ]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"defaults": {"size": "16x9"}}, "size '16x9' is not one of"),
        ({"defaults": {"seed": -1}}, "seed -1"),
        ({"defaults": {"callback_url": "http://x"}}, "callback_url"),
        ({"defaults": {"id": "x"}}, "'id' has no default"),
        ({"defaults": {"sise": "1:1"}}, "'sise' has no default; did you mean 'size'?"),
        ({"columns": {"promt": "x"}}, "unknown field 'promt'; did you mean 'prompt'?"),
    ],
)
def test_a_policy_that_exists_is_valid(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        SheetPolicy(**settings)
    assert told in caught.value.message
    assert caught.value.allowed
