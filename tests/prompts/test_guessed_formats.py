"""What standard input holds, when nobody says it: a wrong guess is paid for line by line."""

from io import BytesIO

import pytest

from krea_async import ImageRequest, InvalidRequestError
from krea_async.prompts import PromptList


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("prompt,size\na fox,16:9\n", "csv"),
        ('\ufeff\n"prompt";"size"\na fox;16:9\n', "csv"),
        ("size\tprompt\n16:9\ta fox\n", "tsv"),
        ('{"prompt": "a fox", "size": "16:9"}\n', "jsonl"),
    ],
)
def test_a_table_is_known_by_its_header(text: str, form: str) -> None:
    with PromptList.open("-", stdin=BytesIO(text.encode())) as rows:
        assert rows.format == form
        assert [*rows.check()] == []
        assert [*rows] == [ImageRequest("a fox", size="16:9")]


@pytest.mark.parametrize("text", ["a prompt, with a size", "[cinematic] a fox", "prompt engineering, size"])
def test_a_prompt_with_a_comma_or_a_bracket_is_a_prompt(text: str) -> None:
    with PromptList.open("-", stdin=BytesIO(text.encode())) as rows:
        assert [*rows] == [ImageRequest(text)]


@pytest.mark.parametrize("text", ['[\n  {"prompt": "a fox"}\n]\n', '["a fox", "a cat"]', "[]", " [ \n"])
def test_an_array_of_json_is_not_paid_for_line_by_line(text: str) -> None:
    with pytest.raises(InvalidRequestError, match="jq -c"):
        PromptList.open("-", stdin=BytesIO(text.encode()))
