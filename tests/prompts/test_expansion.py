"""One row, several pictures: which, in what order, under which names, and at what price, before anything is sent."""

from itertools import islice, product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sheets import problems_of, rows_of, sheet

from krea_async.errors import InvalidRequestError
from krea_async.models import MAX_SEED, QUALITIES, SIZES, ImageRequest
from krea_async.prompts import Expansion, PromptList, SheetPolicy, seeds_of
from krea_async.prompts.columns import Row

FULL = Expansion(sizes=("1:1", "16:9"), qualities=("1K", "2K"), seeds=(1, 2, 3))


def expanded(directory: Path, content: str, policy: SheetPolicy, name: str = "p.csv") -> list[ImageRequest]:
    return rows_of(sheet(directory, name, content), policy=policy)


def test_every_row_times_every_size_quality_and_seed_in_this_order(tmp_path: Path) -> None:
    rows = expanded(tmp_path, "prompt,id\na,x\nb,\n", SheetPolicy(expansion=FULL))
    wanted = list(product("ab", ("1:1", "16:9"), ("1K", "2K"), (1, 2, 3)))
    assert [(row.prompt, row.size, row.quality, row.seed) for row in rows] == wanted
    assert rows[0].id == "x-1x1-1K-s1"
    assert rows[11].id == "x-16x9-2K-s3"
    assert {row.id for row in rows[12:]} == {None}


def test_an_id_gets_what_was_given_so_that_it_stays_when_more_is_given(tmp_path: Path) -> None:
    """A second run with one more size must know the pictures of the first by their ids."""
    one = SheetPolicy(expansion=Expansion(sizes=("16:9",), seeds=(3,)))
    more = SheetPolicy(expansion=Expansion(sizes=("16:9", "1:1"), seeds=(3, 4)))
    first = expanded(tmp_path, "prompt,id\na,x\n", one)
    assert [(row.id, row.size) for row in first] == [("x-16x9-s3", "16:9")]
    assert first[0] in expanded(tmp_path, "prompt,id\na,x\n", more)


def test_templates_multiply_and_come_first(tmp_path: Path) -> None:
    policy = SheetPolicy(template=True, expansion=Expansion(seeds=(1, 2)))
    rows = expanded(tmp_path, "prompt,id\na {red|blue} fox,x\nno choice,y\n", policy)
    assert [(row.prompt, row.id) for row in rows] == [
        ("a red fox", "x-v1-s1"),
        ("a red fox", "x-v1-s2"),
        ("a blue fox", "x-v2-s1"),
        ("a blue fox", "x-v2-s2"),
        ("no choice", "y-s1"),
        ("no choice", "y-s2"),
    ]


def test_the_price_is_of_what_will_be_sent(tmp_path: Path) -> None:
    path = sheet(tmp_path, "p.txt", "a\nb\n")
    with PromptList.open(path, policy=SheetPolicy(expansion=FULL)) as rows:
        assert list(rows.check()) == []
        assert (rows.listed, rows.rows, len(rows)) == (2, 24, 24)
        assert rows.credits == pytest.approx(12 * 0.45 + 12 * 1.8)
        assert rows.usd == pytest.approx(12 * 0.0067 + 12 * 0.027)
        assert [(one.index, one.request.seed) for one in rows.preview(3)] == [(0, 1), (1, 2), (2, 3)]


@pytest.mark.parametrize(("column", "value"), [("size", "1:1"), ("quality", "1K"), ("seed", "1")])
def test_a_row_with_a_value_of_its_own_contradicts_an_expansion(tmp_path: Path, column: str, value: str) -> None:
    path = sheet(tmp_path, "p.csv", f"prompt,{column}\na,\nb,{value}\n")
    [problem] = problems_of(path, policy=SheetPolicy(expansion=FULL))
    assert (problem.line, problem.field) == (3, column)
    assert "leave one of both out" in problem.message


@pytest.mark.parametrize("field", ["size", "quality", "seed"])
def test_a_default_contradicts_an_expansion(field: str) -> None:
    value = {"size": "1:1", "quality": "1K", "seed": 1}[field]
    with pytest.raises(InvalidRequestError, match="contradict each other"):
        SheetPolicy(defaults={field: value}, expansion=FULL)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"sizes": ["16x9"]}, "size '16x9' is not one of .*did you mean '16:9'"),
        ({"sizes": ["1:1", "2:1", "1:1"]}, "size '1:1' is there twice in sizes"),
        ({"qualities": ["3K"]}, "quality '3K'"),
        ({"seeds": [-1]}, "seed -1"),
        ({"seeds": [MAX_SEED + 1]}, "seed"),
        ({"seeds": [True]}, "seed True"),
        ({"seeds": [None]}, "None"),
        ({"seeds": [5, 5]}, "twice"),
    ],
)
def test_an_expansion_that_exists_is_valid(values: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidRequestError, match=told):
        Expansion(**values)


@pytest.mark.parametrize(
    ("text", "seeds"),
    [("7", (7,)), ("1..3", (1, 2, 3)), ("1,5,9..11", (1, 5, 9, 10, 11)), (" 1 , 2 .. 3 ", (1, 2, 3)), ("4..4", (4,))],
)
def test_seeds_are_numbers_and_ranges(text: str, seeds: tuple[int, ...]) -> None:
    assert seeds_of(text) == seeds


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("1-8", r"did you mean '1..8'\?"),
        ("8..1", r"count down; did you mean '1..8'\?"),
        ("", "cannot be read"),
        ("1,,2", "cannot be read"),
        ("a", "cannot be read"),
        ("-3", "cannot be read"),
        ("٣", "cannot be read"),
        ("0..999999999", "seed 999999999 is too large"),
        ("9" * 5000, "cannot be read"),
    ],
)
def test_other_seeds_are_refused(text: str, told: str) -> None:
    with pytest.raises(InvalidRequestError, match=told):
        seeds_of(text)


def test_a_product_that_grows_over_the_limit_is_named_before(tmp_path: Path) -> None:
    path = sheet(tmp_path, "p.txt", "a\n" * 3)
    policy = SheetPolicy(expansion=Expansion(seeds=range(400_000)))
    with PromptList.open(path, policy=SheetPolicy(expansion=Expansion(seeds=range(4)), max_pictures=10)) as rows:
        [problem] = rows.check()
        assert problem.line == 3
        assert "comes to 12 pictures, more than 10" in problem.message
        *_, last = rows
    assert isinstance(last, InvalidRequestError)
    assert policy.expansion.count * 3 > policy.max_pictures


def test_a_hostile_template_is_refused_at_once(tmp_path: Path) -> None:
    path = sheet(tmp_path, "p.txt", "fine\n" + "{0|1|2|3|4|5|6|7|8|9}" * 1000 + "\n")
    with PromptList.open(path, policy=SheetPolicy(template=True)) as rows:
        [problem] = rows.check()
        assert problem.line == 2
        assert "more than 1,000,000" in problem.message


def test_a_list_as_it_stands_may_be_longer_than_the_limit(tmp_path: Path) -> None:
    assert len(rows_of(sheet(tmp_path, "p.txt", "a\n" * 30), policy=SheetPolicy(max_pictures=10))) == 30


def test_what_all_pictures_of_a_row_have_is_told_once(tmp_path: Path) -> None:
    path = sheet(tmp_path, "p.csv", "prompt,callback_url\na,http://x\nb,http://x\n")
    found = problems_of(path, policy=SheetPolicy(expansion=FULL))
    assert [problem.line for problem in found] == [2, 3]


def test_ids_that_an_expansion_makes_equal_are_a_problem(tmp_path: Path) -> None:
    path = sheet(tmp_path, "p.csv", "prompt,id\n{a|b},x\nc,x-v1\n")
    [problem] = problems_of(path, policy=SheetPolicy(template=True))
    assert f"id 'x-v1' is also that of {path}:2, which asks for another picture" in problem.message


expansions = st.builds(
    Expansion,
    sizes=st.lists(st.sampled_from(SIZES), unique=True, max_size=3),
    qualities=st.lists(st.sampled_from(QUALITIES), unique=True),
    seeds=st.lists(st.integers(0, MAX_SEED), unique=True, max_size=4),
)


@given(expansion=expansions, options=st.integers(1, 4), copies=st.integers(1, 3))
def test_as_many_are_made_as_were_counted_and_their_ids_are_unique(
    expansion: Expansion, options: int, copies: int
) -> None:
    policy = SheetPolicy(expansion=expansion, template=True)
    copies = 1 if expansion.seeds else copies
    prompt = "{" + "|".join("abcd"[:options]) + "}" if options > 1 else "a"
    count, requests = policy.pictures(Row({"prompt": prompt, "id": "x"}, copies=copies))
    made = [request for request in requests if isinstance(request, ImageRequest)]
    assert len(made) == count == options * copies * expansion.count
    assert len({request.id for request in made}) == count
    assert made == list(policy.pictures(Row({"prompt": prompt, "id": "x"}, copies=copies))[1])


def test_pictures_are_made_when_they_are_asked_for() -> None:
    policy = SheetPolicy(template=True, expansion=Expansion(seeds=range(1000)))
    count, requests = policy.pictures(Row({"prompt": "{0|1|2|3|4|5|6|7|8|9}" * 12}))
    assert count == 10**15
    assert [request.seed for request in islice(requests, 2) if isinstance(request, ImageRequest)] == [0, 1]
