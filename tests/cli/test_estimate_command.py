"""`krea-async estimate` as people and scripts use it: told on stdout, and nothing is ordered."""

# ruff: noqa: ASYNC240 - looking into a directory takes no time

import json
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from test_commands import Result, environment, run, run_all
from test_resume_command import at_a_terminal

from krea_async.sandbox import Durations, Sandbox

pytestmark = pytest.mark.anyio


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    """A balance of 10 credits: 22 pictures of 0.45."""
    async with Sandbox(durations=Durations.instant(), scenes=1, credits=10.0) as sandbox:
        yield sandbox


def foxes(path: Path, number: int) -> Path:
    path.write_text("".join(f"fox {n}\n" for n in range(number)))
    return path


def facts_of(result: Result) -> dict[str, Any]:
    assert result.code == 0, result.err
    facts: dict[str, Any] = json.loads(result.out)
    return facts


async def test_a_list_is_priced_and_timed_for_people_and_for_programs(sandbox: Sandbox, tmp_path: Path) -> None:
    foxes(tmp_path / "few.txt", 22)
    foxes(tmp_path / "many.txt", 1000)
    ask = partial(run, "estimate", env=environment(sandbox), cwd=tmp_path)
    few, many, piped, as_json = await run_all(
        partial(ask, "few.txt"),
        partial(ask, "many.txt", "--concurrency", "10", "--rate", "0.1"),
        partial(ask, "-", stdin=b'{"prompt": "a fox", "quality": "2K", "seed": 7}\n' * 3),
        partial(ask, "many.txt", "--json"),
    )
    assert (few.code, many.code, piped.code, few.err) == (0, 0, 0, "")
    assert few.out.splitlines()[0] == "22 rows of few.txt"
    assert "  22 to be made\n" in few.out
    assert "cost: 9.90 credits, $0.15 by the price list\n" in few.out
    assert "time: about 0:47 (45 s a picture, an example of the vendor's: no speed is promised; 64 at a time" in few.out
    assert "balance: 10.00 credits, enough\n" in few.out
    preview = "the list: 22 at 1K for 0.45 credits each\n  row 0: 1:1 1K: fox 0\n  row 1: 1:1 1K: fox 1\n"
    assert preview in few.out
    assert "  and 17 more\n" in few.out
    assert few.out.endswith("nothing was submitted\n")
    assert "balance: 10.00 credits, 440.00 too few\n" in many.out
    assert "time: about 2:47:16" in many.out
    assert "at most 0.1 submissions per second" in many.out
    assert "  2 copies of equal rows\n" in piped.out
    assert "cost: 1.80 credits, $0.03" in piped.out
    facts = facts_of(as_json)
    assert (facts["rows"], facts["to_make"], facts["credits"], facts["usd"]) == (1000, 1000, 450.0, 6.7)
    assert (facts["balance"], facts["balance_known"], facts["enough"]) == (10.0, True, False)
    assert (facts["speed"]["pictures"], facts["concurrency"], facts["rate"]) == (0, 64, None)
    assert facts["by_quality"] == {"1K": {"rows": 1000, "credits_each": 0.45}}
    assert [row["prompt"] for row in facts["preview"]] == [f"fox {n}" for n in range(5)]
    assert {*sandbox.ledger.requests} == {"credits"}
    assert {path.name for path in tmp_path.iterdir()} == {"few.txt", "many.txt"}


async def test_what_a_directory_holds_costs_nothing_again(sandbox: Sandbox, tmp_path: Path) -> None:
    listed = foxes(tmp_path / "list.txt", 4)
    env = environment(sandbox)
    assert (await run("render", "list.txt", "out", env=env, cwd=tmp_path)).code == 0
    foxes(listed, 7)
    lost = min((tmp_path / "out").glob("*.png"))
    lost.unlink()
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    ask = partial(run, "estimate", "list.txt", env=env, cwd=tmp_path)
    told, as_json, anew = await run_all(partial(ask, "out"), partial(ask, "out", "--json"), partial(ask, "--json"))
    facts = facts_of(as_json)
    kinds = ("saved", "to_fetch", "failed", "unknown", "copies", "unanswered", "to_make", "others")
    assert [facts[kind] for kind in kinds] == [3, 1, 0, 0, 0, 0, 3, 0]
    assert (facts["credits"], facts["enough"], facts["speed"]["pictures"]) == (1.35, True, 4)
    assert told.out.startswith("7 rows of list.txt, into out\n  3 saved already\n  1 paid for and to be fetched\n")
    assert "the mean of the last 4 in the directory" in told.out
    assert facts_of(anew)["credits"] == 7 * 0.45
    assert before == {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert sandbox.ledger.requests["create"] == 4
    assert (await run("render", "list.txt", "out", env=env, cwd=tmp_path)).code == 0
    assert round(sandbox.ledger.charged_credits - 4 * 0.45, 6) == facts["credits"]


async def test_rows_whose_id_was_another_request_are_counted_before_anything_is_spent(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    """A list that got other prompts under its old ids: what is there counts, and whoever runs it learns so at once."""
    env = environment(sandbox)
    listed = tmp_path / "list.csv"
    listed.write_text("id,prompt\n" + "".join(f"{n},fox {n}\n" for n in range(5)))
    assert (await run("render", "list.csv", "out", env=env, cwd=tmp_path)).code == 0
    listed.write_text("id,prompt\n" + "".join(f"{n},{'fox' if n < 2 else 'owl'} {n}\n" for n in range(5)) + "5,new\n")
    told = await run("estimate", "list.csv", "out", env=env, cwd=tmp_path)
    words = "3 have an id that was another request in an earlier run, which counts; a new id makes another"
    assert f"  {words}\n" in told.out
    assert "  5 saved already\n" in told.out
    asked = await at_a_terminal("render", "list.csv", "out", "--ask-above", 0, answer=b"n\n", env=env, cwd=tmp_path)
    assert f"of these rows {words}" in asked.err
    assert "Spend up to $0.01 on 1 pictures" in asked.err


async def test_the_slowest_rate_is_one_that_can_be_counted(sandbox: Sandbox, tmp_path: Path) -> None:
    foxes(tmp_path / "list.txt", 2)
    result = await run("estimate", "list.txt", "--rate", "1e-320", env=environment(sandbox), cwd=tmp_path)
    assert result.code == 2
    assert "1e-320 is not in the range x>=1e-06" in result.err


async def test_every_bad_row_is_named_and_nobody_is_asked(sandbox: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("prompt,size\na fox,1:1\na fox,16x9\n,1:1\n")
    bad, missing, usage = await run_all(
        partial(run, "estimate", "list.csv", env=environment(sandbox), cwd=tmp_path),
        partial(run, "estimate", "none.csv", env=environment(sandbox), cwd=tmp_path),
        partial(run, "estimate", "list.csv", "--concurrency", "0", env=environment(sandbox), cwd=tmp_path),
    )
    assert (bad.code, bad.out, missing.code, missing.out, usage.code) == (2, "", 2, "", 2)
    second, third, summary = bad.err.splitlines()
    assert second.startswith("list.csv:3: ")
    assert third.startswith("list.csv:4: ")
    assert summary == "2 problems in list.csv; nothing was submitted"
    assert "none.csv does not exist" in missing.err
    assert not sandbox.ledger.requests


async def test_without_a_key_the_balance_is_left_out(sandbox: Sandbox, tmp_path: Path) -> None:
    foxes(tmp_path / "list.txt", 2)
    env = environment(EVOLINK_BASE_URL=sandbox.url, EVOLINK_API_KEY=" ")
    told, as_json = await run_all(
        partial(run, "estimate", "list.txt", env=env, cwd=tmp_path),
        partial(run, "estimate", "list.txt", "--json", env=env, cwd=tmp_path),
    )
    assert (told.code, as_json.code) == (0, 0)
    assert "cost: 0.90 credits" in told.out
    assert "balance" not in told.out
    assert told.err == "krea-async: the balance is left out: there is no API key: set EVOLINK_API_KEY\n"
    facts = facts_of(as_json)
    assert (facts["balance"], facts["balance_known"], facts["enough"]) == (None, False, None)
    assert not sandbox.ledger.requests


async def test_a_balance_that_cannot_be_read_leaves_the_rest_and_has_its_exit_code(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    foxes(tmp_path / "list.txt", 2)
    ask = partial(run, "estimate", "list.txt", cwd=tmp_path)
    refused, gone, wrong = await run_all(
        partial(ask, env=environment(sandbox, EVOLINK_API_KEY="sk-evo-wrong")),
        partial(ask, env=environment(sandbox, EVOLINK_BASE_URL="http://127.0.0.1:9")),
        partial(ask, "--base-url", "ftp://x", env=environment(sandbox)),
    )
    assert (refused.code, gone.code, wrong.code) == (4, 6, 2)
    for result in (refused, gone, wrong):
        assert "cost: 0.90 credits" in result.out
        assert "balance:" not in result.out
        assert "the balance is left out: " in result.err
        assert "sk-evo" not in result.out + result.err
        assert "Traceback" not in result.err


async def test_a_journal_that_cannot_be_read_is_exit_9(sandbox: Sandbox, tmp_path: Path) -> None:
    foxes(tmp_path / "list.txt", 2)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "journal.jsonl").write_text("what is this\nand this\n")
    ask = partial(run, "estimate", "list.txt", env=environment(sandbox), cwd=tmp_path)
    damaged, file = await run_all(partial(ask, "out"), partial(ask, "--out", "list.txt"))
    assert (damaged.code, damaged.out, file.code, file.out) == (9, "", 9, "")
    assert "journal.jsonl, line 1" in damaged.err
    assert not sandbox.ledger.requests


async def test_an_expansion_is_previewed_and_priced(sandbox: Sandbox, tmp_path: Path) -> None:
    foxes(tmp_path / "list.txt", 2)
    (tmp_path / "more.txt").write_text("an owl\n")
    args = ("list.txt", "more.txt", "--sizes", "1:1,16x9", "--qualities", "1K,2K", "--seeds", "1..2")
    ask = partial(run, "estimate", env=environment(sandbox), cwd=tmp_path)
    wrong, told, as_json = await run_all(
        partial(ask, *args),
        partial(ask, *(word.replace("x9", ":9") for word in args)),
        partial(ask, *(word.replace("x9", ":9") for word in args), "--json"),
    )
    assert wrong.code == 2
    assert "did you mean '16:9'?" in wrong.err
    assert "the list: 12 at 1K for 0.45 credits each, 12 at 2K for 1.8 credits each\n" in told.out
    assert "  row 1: 1:1 1K, seed 2: fox 0\n" in told.out
    assert "cost: 27.00 credits" in told.out
    facts = facts_of(as_json)
    assert facts["by_quality"]["2K"] == {"rows": 12, "credits_each": 1.8}
    assert [(row["size"], row["quality"], row["seed"]) for row in facts["preview"][:3]] == [
        ("1:1", "1K", 1),
        ("1:1", "1K", 2),
        ("1:1", "2K", 1),
    ]
