"""Templates: what is written is what is made, as many as were counted, and a mistake is shown where it stands."""

from itertools import islice, pairwise
from math import prod
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sheets import problems_of, prompts_of, sheet

from krea_async.errors import InvalidRequestError
from krea_async.prompts import SheetPolicy
from krea_async.prompts.template import MAX_COUNT, MAX_DEPTH, escape, template_of

TEMPLATES = SheetPolicy(template=True)


def made(prompt: str, **values: str) -> list[str]:
    template = template_of(prompt, values)
    return [template.text(number, values) for number in range(template.count)]


@pytest.mark.parametrize(
    ("prompt", "wanted"),
    [
        ("", [""]),
        ("a fox", ["a fox"]),
        ("a {red|blue} fox", ["a red fox", "a blue fox"]),
        ("{a|b}{c|d}", ["ac", "ad", "bc", "bd"]),
        ("{a|}x", ["ax", "x"]),
        ("{|a||}", ["", "a", "", ""]),
        ("{a|{b|c} d}", ["a", "b d", "c d"]),
        ("{{b|c} d|a}", ["b d", "c d", "a"]),
        ("{{a|b}{c|d}|e}", ["ac", "ad", "bc", "bd", "e"]),
        ("{animal}", ["fox"]),
        ("{ animal }s", ["foxs"]),
        ("a {big {animal}|{animal} {1|2}}", ["a big fox", "a fox 1", "a fox 2"]),
        ("{odd}", ["{x|y} \\{ {animal}"]),
        (r"\{\}", ["{}"]),
        (r"\{a\|b\}", ["{a|b}"]),
        (r"{a\|b|c}", ["a|b", "c"]),
        (r"\\{a|b}", ["\\a", "\\b"]),
        (r"C:\temp\a", [r"C:\temp\a"]),
        ("a\\", ["a\\"]),
        ("a | b", ["a | b"]),
        ("a || b", ["a || b"]),
        ("{a\nb|c}", ["a\nb", "c"]),
        ("{b|b}", ["b", "b"]),
        ("{\\{animal\\}|x}", ["{animal}", "x"]),
    ],
)
def test_what_a_template_means(prompt: str, wanted: list[str]) -> None:
    assert made(prompt, animal="fox", odd="{x|y} \\{ {animal}") == wanted


@pytest.mark.parametrize(
    ("prompt", "place", "told"),
    [
        ("a {red|blue fox", 2, "this { is never closed"),
        ("a {red|{blue} fox", 2, "this { is never closed"),
        ("{", 0, "this { is never closed"),
        ("{a|b}}", 5, "this } closes nothing"),
        ("}", 0, "this } closes nothing"),
        ("a {} b", 2, "there is nothing in these braces"),
        ("a { } b", 2, "there is nothing in these braces"),
        ("a {{x|y}} b", 2, "these braces hold no | between alternatives"),
        ("a {big {x|y}} b", 2, "these braces hold no | between alternatives"),
        ("a {anmal} b", 2, "the row has no column 'anmal'; did you mean 'animal'?"),
        ("{x|{y|{anmal}}}", 6, "the row has no column 'anmal'"),
        (r"\{{zzz}", 2, "the row has no column 'zzz'"),
        ("{a|" * (MAX_DEPTH + 1), 3 * MAX_DEPTH, "this { is nested deeper than"),
        ("{" * 100_000, MAX_DEPTH, "this { is nested deeper than"),
        ("漢字 {x", 3, "this { is never closed"),
        ("e\u0301\n{x", 3, "this { is never closed"),
        ("long " * 50 + "{x" + " tail" * 50, 250, "this { is never closed"),
    ],
)
def test_a_mistake_is_shown_by_a_caret(prompt: str, place: int, told: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        made(prompt, animal="fox")
    first, excerpt, caret = caught.value.message.split("\n")
    assert f"at place {place + 1}: {told}" in first
    assert caret.strip().startswith(f"^ {told}")
    assert len(excerpt) < 80
    cells = caret.index("^")
    column = cells - 2 if "漢" in prompt else cells + 1 if "\u0301" in prompt else cells
    assert excerpt[column] == prompt[place]
    assert caught.value.field == "prompt"


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


@given(text=texts | st.text("{}|\\ab", max_size=20))
def test_escaped_text_means_itself(text: str) -> None:
    assert made(escape(text)) == [text]


def alternatives(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.lists(inner, min_size=2, max_size=4).map(lambda options: "{" + "|".join(options) + "}")


words = st.text("ab {}|\\", max_size=5).map(escape) | st.just("{animal}")
templates = st.recursive(words, lambda inner: alternatives(inner) | st.lists(inner, max_size=3).map("".join))


def expected(prompt: str) -> list[str]:
    """The same by another way: each alternative replaces its braces in the text, the innermost braces first."""
    marks = {r"\{": "\1", r"\}": "\2", r"\|": "\3", "\\\\": "\4"}
    text, place = "", 0
    while place < len(prompt):
        pair = prompt[place : place + 2]
        text += marks.get(pair, prompt[place])
        place += 2 if pair in marks else 1

    def options(text: str) -> list[str]:
        text = text.replace("{animal}", "fox")
        if "{" not in text:
            return [text]
        start = text.index("{")
        depth, cuts = 0, [start]
        for place in range(start, len(text)):
            depth += {"{": 1, "}": -1}.get(text[place], 0)
            if depth == 1 and text[place] == "|":
                cuts.append(place)
            if depth == 0:
                cuts.append(place)
                break
        heads = [one for a, b in pairwise(cuts) for one in options(text[a + 1 : b])]
        return [text[:start] + head + tail for head in heads for tail in options(text[cuts[-1] + 1 :])]

    back = {mark: pair[1] for pair, mark in marks.items()}
    return ["".join(back.get(ch, ch) for ch in text) for text in options(text)]


@given(prompt=templates)
def test_as_many_are_made_as_were_counted_and_they_are_the_right_ones(prompt: str) -> None:
    template = template_of(prompt, {"animal": "fox"})
    first = [template.text(number, {"animal": "fox"}) for number in range(min(template.count, 200))]
    if template.count <= 200:
        assert first == expected(prompt)


@given(text=st.text("{}|\\ab", max_size=40))
def test_any_text_is_a_template_or_a_mistake_with_its_place(text: str) -> None:
    values = {"a": "1", "b": "2"}
    try:
        template = template_of(text, values)
    except InvalidRequestError as error:
        told = error.message.split("\n")[2]
    else:
        told = f"^ {template.text(template.count - 1, values)}"
    assert told.strip().startswith("^ ") or told == "^ "


def test_a_million_million_alternatives_are_counted_and_found_by_their_numbers() -> None:
    template = template_of("{0|1|2|3|4|5|6|7|8|9}" * 12, {})
    assert template.count == 10**12
    assert template.text(123_456_789_012, {}) == "123456789012"
    assert list(islice((template.text(n, {}) for n in range(template.count)), 2)) == ["0" * 12, "0" * 11 + "1"]


def test_a_hostile_prompt_costs_no_long_numbers() -> None:
    assert template_of("{|}" * 20_000, {}).count == MAX_COUNT


def test_braces_mean_nothing_unless_templates_are_asked_for(tmp_path: Path) -> None:
    path = sheet(tmp_path, "p.txt", "a {red|blue fox\n{x}\n")
    assert prompts_of(path) == ["a {red|blue fox", "{x}"]


def test_columns_are_the_rows_own(tmp_path: Path) -> None:
    head = "prompt,animal,n,size\n"
    path = sheet(tmp_path, "p.csv", head + '{n} {animal} {size}{ bold|},"fox, {red}",7,16:9\na {animal},,,\nx\n')
    wanted = ["7 fox, {red} 16:9 bold", "7 fox, {red} 16:9", "a", "x"]
    assert prompts_of(path, policy=TEMPLATES) == wanted
    path = sheet(tmp_path, "p.jsonl", '{"prompt": "{a} {b} {c} {d}", "a": 7.0, "b": null, "c": true, "d": "x"}\n')
    assert prompts_of(path, policy=TEMPLATES) == ["7  true x"]


def test_a_broken_template_is_its_rows_problem(tmp_path: Path) -> None:
    path = sheet(tmp_path, "p.csv", "prompt,color\nfine {color},red\na {colour} fox,red\n{color|\n")
    found = problems_of(path, policy=TEMPLATES)
    assert [problem.line for problem in found] == [3, 4]
    lines = str(found[0]).split("\n")
    assert lines[0].startswith(
        f"{path}:3: the template in the prompt is broken at place 3: the row has no column 'colour'"
    )
    assert lines[1:] == ["  a {colour} fox", "    ^ the row has no column 'colour'; did you mean 'color'?"]


def test_a_txt_has_no_columns(tmp_path: Path) -> None:
    [problem] = problems_of(sheet(tmp_path, "p.txt", "a {animal}\n"), policy=TEMPLATES)
    assert "allowed: no column: the row has none" in problem.message


def test_columns_that_hold_no_text_cannot_be_named(tmp_path: Path) -> None:
    path = sheet(tmp_path, "p.jsonl", '{"prompt": "{tags}", "tags": ["a"]}\n')
    [problem] = problems_of(path, policy=TEMPLATES)
    assert "the row has no column 'tags'" in problem.message


def test_an_alternative_without_words_is_a_problem_of_the_row(tmp_path: Path) -> None:
    [problem] = problems_of(sheet(tmp_path, "p.txt", "{a|}\n"), policy=TEMPLATES)
    assert problem.message.startswith("prompt '' is not a non-empty text")


def test_count_is_the_product() -> None:
    sizes = [2, 3, 5, 7]
    prompt = "".join("{" + "|".join("x" * size) + "}" for size in sizes)
    assert template_of(prompt, {}).count == prod(sizes)


def test_a_cell_that_is_missing_is_no_empty_one(tmp_path: Path) -> None:
    """A list with the wrong delimiter, or a comma too few, would else be paid for with holes in its prompts."""
    path = sheet(tmp_path, "p.csv", "prompt,animal\na {animal},\na {animal}\n")
    [problem] = problems_of(path, policy=TEMPLATES)
    assert problem.line == 3
    assert "the row has no column 'animal'" in problem.message
