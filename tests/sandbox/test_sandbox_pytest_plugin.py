import json
import os
from typing import Any
from urllib.request import Request, urlopen

import pytest

from krea_async.sandbox import Durations, Sandbox
from krea_async.sandbox.pytest_plugin import SandboxFactory


def created(url: str, key: str, prompt: str) -> dict[str, Any]:
    body = json.dumps({"model": "krea-2-turbo", "prompt": prompt}).encode()
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    with urlopen(Request(f"{url}/v1/images/generations", body, headers)) as response:
        task_id = json.load(response)["id"]
    with urlopen(Request(f"{url}/v1/tasks/{task_id}", headers=headers)) as response:
        found: dict[str, Any] = json.load(response)
    return found


def test_a_synchronous_test_gets_a_picture(krea_sandbox: Sandbox) -> None:
    task = created(krea_sandbox.url, krea_sandbox.key, "a fox")
    assert task["status"] == "completed"
    with urlopen(task["results"][0]) as response:
        assert response.read(4) == b"\x89PNG"
    assert krea_sandbox.ledger.charged_credits == 0.45


@pytest.mark.anyio
async def test_an_asynchronous_test_shares_no_loop_with_it(krea_sandbox: Sandbox) -> None:
    """A blocking client would hang here if it did."""
    assert created(krea_sandbox.url, krea_sandbox.key, "a fox")["status"] == "completed"


def test_the_environment_leads_to_it(krea_sandbox_env: Sandbox) -> None:
    assert created(os.environ["EVOLINK_BASE_URL"], os.environ["EVOLINK_API_KEY"], "a fox")
    assert list(krea_sandbox_env.ledger.tasks_by_prompt) == ["a fox"]


def test_a_factory_opens_as_many_as_wanted(krea_sandbox_factory: SandboxFactory) -> None:
    fast, slow = krea_sandbox_factory(), krea_sandbox_factory(durations=Durations.fixed(60), key="sk-evo-other")
    assert created(fast.url, fast.key, "a fox")["status"] == "completed"
    assert created(slow.url, "sk-evo-other", "a fox")["status"] == "processing"
    assert (fast.ledger.unfinished, slow.ledger.unfinished) == (0, 1)
