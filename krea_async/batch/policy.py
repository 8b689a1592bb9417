"""What a batch is told beyond its prompts and its caps: how it stops, what it tries again, what it trusts."""

from collections.abc import Collection

from attrs import Attribute, field, frozen, validators

from krea_async.control.backlog import BacklogPolicy
from krea_async.control.breaker import BreakerPolicy
from krea_async.storage.journal import JournalPolicy
from krea_async.storage.template import NameTemplate


def _check_retried(policy: "BatchPolicy", attribute: "Attribute[frozenset[str] | None]", value: object) -> None:
    if value is not None and not policy.retry_failed:
        raise ValueError(f"'{attribute.name}' says which rows retry_failed sends again; give both")


def _check_name(_: "BatchPolicy", _attribute: "Attribute[str | None]", value: str | None) -> None:
    if value is not None:
        NameTemplate.parse(value)


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
    record_seeds: give every new row that has no seed one of its own and note it, so that a lost picture can be made
    again. Rows are still recognised by what their list says, and copied from others only if that gives them a seed.
    name: how new files are called, as `"{index:06d}-{slug}-{seed}.{ext}"`; None: by the row's id, or its number and
    prompt. Rows that an earlier run noted keep the names, and the seeds, that they have. The fields:

    - `{index}`: the row's number in its list, from 0; `{index:06d}` fills it up with zeros.
    - `{id}`: the row's id; nothing if it has none.
    - `{slug}`: letters and digits of the prompt's first words, at most 60 characters; `{slug:.30}`: at most 30.
    - `{size}`: the aspect ratio, as `16x9`. `{quality}`: `1K` or `2K`. `{width}`, `{height}`: pixels.
    - `{seed}`: the seed that is sent; `x` if the gateway chooses.
    - `{ext}`: only as `.{ext}` at the end, where it may be left out: the extension follows the picture that comes.

    `{{` and `}}` stand for braces. What a file system or shell would trip over becomes a hyphen. If the name is taken,
    the row's number is added, and nothing is overwritten. Raises InvalidRequestError for any other template.
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
    name: str | None = field(default=None, validator=_check_name)
    record_seeds: bool = False
    journal: JournalPolicy = field(factory=JournalPolicy)
    backlog: BacklogPolicy = field(factory=BacklogPolicy)
