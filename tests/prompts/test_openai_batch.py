"""OpenAI's batch form: what it asks for is made, and what cannot be had is a problem before anything is paid."""

import json
from pathlib import Path
from typing import Any

import pytest
from sheets import problems_of, rows_of, sheet

from krea_async.models import QUALITIES, SIZES, ImageRequest
from krea_async.prompts import Expansion, SheetPolicy
from krea_async.prompts.openai_batch import IGNORED

URL = "/v1/images/generations"


def line(custom_id: str = "cover", **body: Any) -> str:
    full = {"model": "gpt-image-1", "prompt": "A lighthouse", **body}
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": URL, "body": full}) + "\n"


def one(directory: Path, **body: Any) -> ImageRequest:
    [row] = rows_of(sheet(directory, "p.jsonl", line(**body)))
    return row


def test_a_line_is_a_row(tmp_path: Path) -> None:
    body = {"size": "1536x1024", "quality": "high", "seed": 7, "nsfw_check": True, "user": "u", "n": 1}
    assert one(tmp_path, **body) == ImageRequest(
        "A lighthouse", size="3:2", quality="2K", seed=7, nsfw_check=True, id="cover"
    )


def test_the_least_that_a_line_may_have(tmp_path: Path) -> None:
    path = sheet(tmp_path, "p.jsonl", '{"custom_id": "a", "body": {"prompt": "b", "size": null}}\n')
    assert rows_of(path) == [ImageRequest("b", id="a")]
    assert rows_of(path, format="openai-batch") == [ImageRequest("b", id="a")]


@pytest.mark.parametrize(
    ("size", "ratio", "quality"),
    [
        ("auto", "1:1", "1K"),
        ("16:9", "16:9", "1K"),
        ("256x256", "1:1", "1K"),
        ("1024x1024", "1:1", "1K"),
        ("1792x1024", "16:9", "1K"),
        ("1024x1792", "9:16", "1K"),
        ("1536x1024", "3:2", "1K"),
        ("1024x1536", "2:3", "1K"),
        ("1280x720", "16:9", "1K"),
        ("832x1280", "2:3", "1K"),
        ("704x1472", "1:2", "1K"),
        ("1152x896", "5:4", "1K"),
        ("2048x2048", "1:1", "2K"),
        ("2688x1472", "16:9", "2K"),
    ],
)
def test_sizes(tmp_path: Path, size: str, ratio: str, quality: str) -> None:
    row = one(tmp_path, size=size)
    assert (row.size, row.quality) == (ratio, quality)


def test_every_size_that_is_made_here_is_itself(tmp_path: Path) -> None:
    for quality in QUALITIES:
        for size in SIZES:
            pixels = ImageRequest("-", size=size, quality=quality).pixels
            row = one(tmp_path, size="x".join(map(str, pixels)))
            assert row.pixels == pixels
            assert row.quality == quality


@pytest.mark.parametrize(
    ("quality", "tier"),
    [(word, "1K") for word in ("standard", "low", "medium", "auto", "1K")]
    + [(word, "2K") for word in ("high", "hd", "2K")],
)
def test_qualities(tmp_path: Path, quality: str, tier: str) -> None:
    assert one(tmp_path, quality=quality).quality == tier


def test_a_quality_that_is_stated_wins_over_the_pixels(tmp_path: Path) -> None:
    assert one(tmp_path, size="2048x2048", quality="standard").quality == "1K"


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"size": "1000x700"}, "body.size '1000x700' is not within 2% of a ratio that the model has; the nearest is"),
        ({"size": "0x5"}, "is none"),
        ({"size": "large"}, "is none"),
        ({"size": 1024}, "is none"),
        ({"size": "16x9x2"}, "is none"),
        ({"quality": "hdd"}, "body.quality 'hdd' is unknown"),
        ({"quality": ["hd"]}, "body.quality ['hd'] is unknown"),
        ({"n": 0}, "body.n 0 is no number"),
        ({"n": 11}, "a whole number from 1 to 10"),
        ({"n": True}, "body.n True"),
        ({"n": "2"}, "body.n '2'"),
        ({"n": 2, "seed": 7}, "2 pictures of one row with a seed are all the same"),
        ({"style": "vivid"}, "body.style cannot be had from this model"),
        ({"background": "transparent"}, "body.background cannot be had"),
        ({"background": ["x"]}, "body.background cannot be had"),
        ({"negative_prompt": "x"}, "body.negative_prompt is unknown"),
        ({"promt": "x"}, "body.promt is unknown; did you mean 'prompt'?"),
        ({"prompt": None}, "prompt None"),
        ({"prompt": ""}, "prompt ''"),
        ({"seed": "7"}, "seed '7'"),
    ],
)
def test_what_cannot_be_had_is_a_problem(tmp_path: Path, body: dict[str, Any], told: str) -> None:
    [problem] = problems_of(sheet(tmp_path, "p.jsonl", line(**body)))
    assert told in problem.message
    assert str(problem).count("\n") == 0
    assert len(str(problem)) < 600


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({"custom_id": "a", "body": {"prompt": "b"}, "url": "/v1/chat/completions"}, "url '/v1/chat/completions'"),
        ({"custom_id": "a", "body": {"prompt": "b"}, "url": "/v1/images/edits"}, "url '/v1/images/edits'"),
        ({"custom_id": "a", "body": {"prompt": "b"}, "url": 7}, "url 7"),
        ({"custom_id": "a", "body": {"prompt": "b"}, "method": "GET"}, "method 'GET'"),
        ({"custom_id": "", "body": {"prompt": "b"}}, "no custom_id"),
        ({"custom_id": 7, "body": {"prompt": "b"}}, "no custom_id"),
        ({"custom_id": "a", "body": "b"}, "no body"),
        ({"custom_id": "a", "body": {"prompt": "b"}, "metod": "POST"}, "unknown field 'metod'; did you mean 'method'?"),
    ],
)
def test_lines_that_are_another_task_or_none(tmp_path: Path, content: dict[str, Any], told: str) -> None:
    [problem] = problems_of(sheet(tmp_path, "p.jsonl", json.dumps(content)))
    assert told in problem.message


def test_what_changes_no_picture_is_left_out(tmp_path: Path) -> None:
    assert one(tmp_path, **dict.fromkeys(IGNORED, "x"), background="auto", style=None) == one(tmp_path)


def test_n_pictures_are_n_rows_with_ids_of_their_own(tmp_path: Path) -> None:
    path = sheet(tmp_path, "p.jsonl", line("a", n=3) + line("b"))
    assert [row.id for row in rows_of(path)] == ["a-1", "a-2", "a-3", "b"]
    policy = SheetPolicy(expansion=Expansion(qualities=("1K", "2K")))
    wanted = [f"a-{quality}-{n}" for quality in ("1K", "2K") for n in (1, 2, 3)]
    assert [row.id for row in rows_of(path, policy=policy)] == [*wanted, "b-1K", "b-2K"]


def test_copies_and_seeds_for_all_contradict_each_other(tmp_path: Path) -> None:
    path = sheet(tmp_path, "p.jsonl", line("a", n=3))
    for policy in (SheetPolicy(defaults={"seed": 7}), SheetPolicy(expansion=Expansion(seeds=(1, 2)))):
        [problem] = problems_of(path, policy=policy)
        assert "are all the same" in problem.message


def test_auto_leaves_the_row_to_what_is_said_for_all(tmp_path: Path) -> None:
    path = sheet(tmp_path, "p.jsonl", line(size="auto", quality="auto"))
    [row] = rows_of(path, policy=SheetPolicy(defaults={"size": "2:1", "quality": "2K"}))
    assert (row.size, row.quality) == ("2:1", "2K")


def test_the_format_takes_nothing_else(tmp_path: Path) -> None:
    path = sheet(tmp_path, "p.jsonl", '"a"\n{"prompt": "a"}\n')
    found = problems_of(path, format="openai-batch")
    assert [problem.message.partition(";")[0] for problem in found] == [
        "the line is a text",
        "unknown field 'prompt'",
    ]


def test_forms_may_be_mixed(tmp_path: Path) -> None:
    path = sheet(tmp_path, "p.jsonl", line("a") + '{"prompt": "own", "id": "b"}\n"text"\n')
    assert [(row.prompt, row.id) for row in rows_of(path)] == [("A lighthouse", "a"), ("own", "b"), ("text", None)]


def test_templates_and_mappings_beside_it(tmp_path: Path) -> None:
    path = sheet(tmp_path, "p.jsonl", line("a", prompt="a {big|small} fox"))
    rows = rows_of(path, policy=SheetPolicy(template=True))
    assert [(row.prompt, row.id) for row in rows] == [("a big fox", "a-v1"), ("a small fox", "a-v2")]
    path = sheet(tmp_path, "p.jsonl", '{"custom_id": "a", "body": "a fox"}\n')
    assert rows_of(path, policy=SheetPolicy(columns={"prompt": "body"})) == [ImageRequest("a fox")]
