"""A part of a list, for one of several machines that share it without knowing of each other."""

import re
from typing import Final, Self

from attrs import Attribute, field, frozen

from krea_async.models import ImageRequest
from krea_async.prompts.problems import refused
from krea_async.storage.records import digest_of

_ALLOWED: Final = "K/N with K from 1 to N, such as 2/5"


def _check_number(shard: "Shard", _attribute: "Attribute[int]", count: int) -> None:
    if not 1 <= shard.number <= count:
        raise refused(f"shard {shard.number}/{count} is none", _ALLOWED, field="shard", value=f"{shard}")


@frozen
class Shard:
    """Part `number`, from 1, of `count`. All parts together are the list, and each row is in exactly one.

    Which part a row is in follows from what an output directory recognises it by (its id or, without one, all that
    makes the picture), and not from its place in the list: a row that is put in, left out or moved takes no other row
    to another machine, where it would be paid for again. The price: parts are equal in size only by chance, a percent
    or so apart at 10,000 rows each, and one of a list of a few rows may be empty. Equal rows are in the same part, and
    so are paid once where that is asked for; rows that differ in nothing but their ids need not be.
    """

    number: int
    count: int = field(validator=_check_number)

    @classmethod
    def of(cls, text: str) -> Self:
        """The shard of `2/5`. Raises InvalidRequestError for what is none."""
        found = re.fullmatch(r"\s*([0-9]{1,9})\s*/\s*([0-9]{1,9})\s*", text, re.ASCII)
        if found is None:
            raise refused(f"shard {text[:60]!r} is not of the form K/N", _ALLOWED, field="shard", value=text)
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def has(self, request: ImageRequest) -> bool:
        """Whether the picture is one of this part's."""
        return digest_of(request) % self.count == self.number - 1

    def has_error(self, index: int) -> bool:
        """Whether this part tells of a row that is none: nobody knows what it would be recognised by."""
        return index % self.count == self.number - 1
