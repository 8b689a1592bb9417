"""Prompt sheets: lists of pictures to make, in the forms that people keep them in, checked before anything is paid.

`PromptList.open` reads files, globs and standard input (.txt, .jsonl, .csv, .tsv, each also as .gz, .parquet, and the
batch form of OpenAI), and `SheetPolicy` says what is made of their rows.
"""

from krea_async.prompts.expansion import Expansion, seeds_of
from krea_async.prompts.policy import SheetPolicy
from krea_async.prompts.problems import RowProblem
from krea_async.prompts.shard import Shard
from krea_async.prompts.sheet import PromptList
from krea_async.prompts.sources import Format
from krea_async.prompts.text import MAX_LINE_BYTES

__all__ = [
    "MAX_LINE_BYTES",
    "Expansion",
    "Format",
    "PromptList",
    "RowProblem",
    "Shard",
    "SheetPolicy",
    "seeds_of",
]
