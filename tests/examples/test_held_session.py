"""A session between two hooks: opened and closed from different tasks, and never hanging in either."""

import anyio
import pytest
from processes import EXAMPLES

from krea_async import AuthenticationError, SessionClosedError
from krea_async.sandbox import Durations, Sandbox

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.delenv("EVOLINK_API_KEY", raising=False)


async def test_a_session_that_cannot_be_opened_says_why() -> None:
    from held_session import HeldSession  # noqa: PLC0415 - it is in no package

    with anyio.fail_after(5), pytest.raises(AuthenticationError):
        await HeldSession().open()


async def test_it_is_closed_from_another_task_and_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    import held_session  # noqa: PLC0415 - it is in no package

    monkeypatch.setattr(held_session, "DRAIN_S", 0.2)
    async with Sandbox(durations=Durations.fixed(300.0)) as sandbox:
        monkeypatch.setenv("EVOLINK_API_KEY", sandbox.key)
        monkeypatch.setenv("EVOLINK_BASE_URL", sandbox.url)
        held = held_session.HeldSession()
        async with anyio.create_task_group() as startup:
            startup.start_soon(held.open)
        job = await held.session.submit("a fox")
        with anyio.fail_after(5):
            async with anyio.create_task_group() as shutdown:
                shutdown.start_soon(held.close)
        with pytest.raises(SessionClosedError):
            await job.wait()
        assert [*sandbox.ledger.tasks] == [job.task_id]
