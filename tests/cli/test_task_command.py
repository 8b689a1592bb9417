"""`krea-async task`: what the gateway says of one task; links are cut, ids are checked, and the picture is fetched."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from test_commands import Result, environment, run, run_all, size_of

from krea_async import ImageRequest, KreaSession
from krea_async.cli.exits import Exit
from krea_async.sandbox import Durations, Sandbox

pytestmark = pytest.mark.anyio


async def ordered(sandbox: Sandbox, prompt: str = "a fox") -> str:
    """The id of a task that somebody else has ordered."""
    async with KreaSession(sandbox.key, base_url=sandbox.url) as session:
        return (await session.submit(ImageRequest(prompt, size="16:9"))).task_id


def asked(sandbox: Sandbox, directory: Path, *args: object, **env: str) -> partial[Any]:
    return partial(run, "task", *args, env=environment(sandbox, **env), cwd=directory)


async def test_a_completed_task_is_told_and_its_links_are_cut(sandbox: Sandbox, tmp_path: Path) -> None:
    task_id = await ordered(sandbox)
    told, as_json = await run_all(asked(sandbox, tmp_path, task_id), asked(sandbox, tmp_path, task_id, "--json"))
    assert (told.code, as_json.code, told.err, as_json.err) == (0, 0, "", "")
    assert told.out.startswith(f"{task_id}: completed\n")
    assert "charged 0.45 credits\n" in told.out
    assert "links live until " in told.out
    assert f"krea-async task {task_id} --save ." in told.out
    facts = json.loads(as_json.out)
    assert (facts["status"], facts["credits_used"], facts["error"], facts["file"]) == ("completed", 0.45, None, None)
    assert facts["links_end"] == facts["created"] + 86_400
    assert facts["links_expired"] is False
    (link,) = facts["links"]
    assert link.endswith(f"/{task_id}.png")
    assert "sig" not in told.out + as_json.out
    assert len(sandbox.ledger.tasks) == 1


async def test_a_failed_task_says_why_and_whether_another_try_may_help(sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.script("create", ("fail", "content_policy_violation"), ("fail", "generation_timeout"))
    policy, timeout = [await ordered(sandbox, prompt) for prompt in ("one", "two")]
    results = await run_all(
        asked(sandbox, tmp_path, policy),
        asked(sandbox, tmp_path, timeout),
        asked(sandbox, tmp_path, policy, "--save", ".", "--json"),
        asked(sandbox, tmp_path, timeout, "--wait"),
    )
    assert [result.code for result in results] == [Exit.SOME_FAILED] * 4
    first, second, saved, _ = results
    assert "content_policy_violation: " in first.out
    assert "not charged, the same prompt would fail again" in first.out
    assert "generation_timeout: " in second.out
    assert "not charged, the same prompt may do better" in second.out
    facts = json.loads(saved.out)
    assert (facts["error"]["code"], facts["retryable"], facts["file"]) == ("content_policy_violation", False, None)


async def test_an_unfinished_task_is_told_and_waited_for(tmp_path: Path) -> None:
    async with Sandbox(durations=Durations.fixed(600.0)) as sandbox:
        session = KreaSession(sandbox.key, base_url=sandbox.url)
        task = await _submitted(session)
        running = await asked(sandbox, tmp_path, task)()
        assert running.code == Exit.UNFINISHED
        assert f"krea-async task {task} --wait" in running.out
        assert "reserved 0.45 credits" in running.out
        impatient = await asked(sandbox, tmp_path, task, "--wait", "--task-timeout", "0.3")()
        assert impatient.code == Exit.UNFINISHED, impatient.err
        assert "Traceback" not in impatient.err


async def _submitted(session: KreaSession) -> str:
    """A task that is left behind."""
    with anyio.CancelScope() as scope:
        async with session:
            task_id = (await session.submit("a fox")).task_id
            scope.cancel()
    return task_id


async def test_its_picture_is_saved_as_often_as_asked_for_and_costs_nothing(sandbox: Sandbox, tmp_path: Path) -> None:
    task_id = await ordered(sandbox)
    folder, file = await run_all(
        asked(sandbox, tmp_path, task_id, "--save", "new/"),
        asked(sandbox, tmp_path, task_id, "--save", "fox.png", "--json"),
    )
    assert folder.out == f"new/{task_id}.png\n"
    assert size_of(tmp_path / "new" / f"{task_id}.png") == (1344, 768)
    assert json.loads(file.out)["file"] == "fox.png"
    assert size_of(tmp_path / "fox.png") == (1344, 768)
    assert sandbox.ledger.charged_credits == 0.45


async def test_an_id_that_is_wrong_is_told_as_such(sandbox: Sandbox, tmp_path: Path) -> None:
    task_id = await ordered(sandbox)
    before = dict(sandbox.ledger.requests)
    formless = await asked(sandbox, tmp_path, "renders/fox.png")()
    assert formless.code == Exit.USAGE
    assert "'renders/fox.png' is no task id; they look like task-unified-" in formless.err
    assert dict(sandbox.ledger.requests) == before  # it was not even asked for
    unknown, refused = await run_all(
        asked(sandbox, tmp_path, task_id[:-1] + "_"), asked(sandbox, tmp_path, task_id, EVOLINK_API_KEY="sk-wrong")
    )
    assert unknown.code == Exit.USAGE
    assert f"does not know {task_id[:-1]}_: is a letter wrong" in unknown.err
    assert "manifest.jsonl" in unknown.err
    assert refused.code == Exit.KEY_REFUSED
    results: list[Result] = [formless, unknown, refused]
    assert all(result.out == "" and len(result.err.splitlines()) == 1 for result in results)
