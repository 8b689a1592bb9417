"""A row enters the journal: with the seed that it is sent with, and the name that its file gets.

Both are noted before the row is sent, so that every later run has the same, whatever it is told.
"""

from random import Random
from typing import Final

from attrs import evolve

from krea_async.batch.policy import BatchPolicy
from krea_async.models import MAX_SEED, ImageRequest
from krea_async.storage.journal import Journal
from krea_async.storage.records import Row
from krea_async.storage.template import NameTemplate

_STRIDE: Final = 648_055  # odd, so it comes to every one of 2^20 seeds before it comes to one again


class Noting:
    """Notes the new rows of one run."""

    def __init__(self, journal: Journal, policy: BatchPolicy, rng: Random) -> None:
        self._journal = journal
        self._template = None if policy.name is None else NameTemplate.parse(policy.name)
        self._first_seed = rng.randrange(MAX_SEED) if policy.record_seeds else None

    def draws(self, request: ImageRequest) -> bool:
        """Whether such a row gets a seed when it is noted."""
        return self._first_seed is not None and not request.seed

    def note(self, request: ImageRequest, *, index: int) -> Row:
        """Note a row that the journal does not know. Raises JournalError if the disk has failed."""
        drawn = self.draws(request)
        if drawn:
            request = evolve(request, seed=self._seed(self._journal.rows))
        stem = None if self._template is None else self._template.stem(index, request)
        return self._journal.plan(request, index=index, stem=stem, drawn=drawn)

    def _seed(self, n: int) -> int:
        """Of row `n`: another one for each of 1,048,576 rows in a row, so that equal rows are different pictures."""
        return 1 + ((self._first_seed or 0) + n * _STRIDE) % MAX_SEED
