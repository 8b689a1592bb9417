"""A local EvoLink gateway: for a first run without a key, for tests, and for everything that can go wrong.

async with Sandbox(faults=Faults.everywhere(0.03)) as sandbox:
    async with KreaSession(sandbox.key, base_url=sandbox.url) as session: ...
    assert not sandbox.ledger.leaks
"""

from krea_async.sandbox.faults import Fault, Faults
from krea_async.sandbox.ledger import Ledger
from krea_async.sandbox.server import Sandbox
from krea_async.sandbox.settings import Durations, Limits
from krea_async.sandbox.tasks import TaskRecord

__all__ = ["Durations", "Fault", "Faults", "Ledger", "Limits", "Sandbox", "TaskRecord"]
