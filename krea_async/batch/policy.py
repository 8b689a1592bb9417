"""What a batch is told beyond its prompts and its caps: how it stops, what it tries again, what it trusts."""

from collections.abc import Collection

from attrs import Attribute, field, frozen, validators

from krea_async.control.backlog import BacklogPolicy
from krea_async.control.breaker import BreakerPolicy
from krea_async.storage.journal import JournalPolicy


def _check_retried(policy: "BatchPolicy", attribute: "Attribute[frozenset[str] | None]", value: object) -> None:
    if value is not None and not policy.retry_failed:
        raise ValueError(f"'{attribute.name}' says which rows retry_failed sends again; give both")


def _codes(codes: Collection[str] | None) -> frozenset[str] | None:
    return None if codes is None else frozenset(codes)


@frozen(kw_only=True)
class BatchPolicy:
    """How a batch goes about its rows.

    drain_s: how long tasks in flight are still followed and saved after a signal or a cancellation. canary: so many new
    rows run to their end before the rest starts; 0: all at once. breaker: when to stop because row after row fails for
    one fault of the template; None: never. dedupe: rows equal in all that makes the picture, with a seed, are paid once
    and linked or copied to every name.
    retry_failed: send rows again that failed in an earlier run, where the vendor's table says that another try may
    help; with retry_codes, those of these codes and no others. retry_unknown: send rows again of which nobody knows
    whether they were charged. check_sha256: of pictures that are there already, read the whole file, not only its size.
    read_balance: ask for the account's credits before and after, so that the books can be compared with them.
    skip_damaged: go on although lines of the journal are damaged; what they said may then be paid for twice.
    """

    drain_s: float = field(default=30.0, validator=validators.ge(0))
    canary: int = field(default=0, validator=validators.ge(0))
    breaker: BreakerPolicy | None = field(factory=BreakerPolicy)
    dedupe: bool = True
    retry_failed: bool = False
    retry_codes: frozenset[str] | None = field(default=None, converter=_codes, validator=_check_retried)
    retry_unknown: bool = False
    check_sha256: bool = False
    read_balance: bool = False
    skip_damaged: bool = False
    journal: JournalPolicy = field(factory=JournalPolicy)
    backlog: BacklogPolicy = field(factory=BacklogPolicy)
