"""What is made of a sheet's rows, decided before it is read: columns, defaults, templates, expansion, shard."""

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any, Final

from attrs import field, frozen, validators

from krea_async.errors import InvalidRequestError
from krea_async.models import REQUEST_FIELDS, ImageRequest
from krea_async.prompts.columns import Columns, Row
from krea_async.prompts.expansion import Expansion
from krea_async.prompts.problems import did_you_mean, refused, shown
from krea_async.prompts.shard import Shard
from krea_async.prompts.template import template_of
from krea_async.prompts.text import encoding_of

MAX_PICTURES: Final = 1_000_000

_DEFAULT_FIELDS: Final = tuple(name for name in REQUEST_FIELDS if name not in {"prompt", "id"})
_NO_EXPANSION: Final = Expansion()


def _check_columns(_: object, _attribute: object, columns: Mapping[str, str]) -> None:
    for name in columns:
        if name not in REQUEST_FIELDS:
            message = f"unknown field {shown(name)}{did_you_mean(name, REQUEST_FIELDS)}"
            raise refused(message, f"one of {', '.join(REQUEST_FIELDS)}", field=name)


def _check_defaults(policy: "SheetPolicy", _attribute: object, defaults: Mapping[str, Any]) -> None:
    for name in defaults:
        if name not in _DEFAULT_FIELDS:
            message = f"{shown(name)} has no default{did_you_mean(name, _DEFAULT_FIELDS)}"
            raise refused(message, f"one of {', '.join(_DEFAULT_FIELDS)}", field=name)
        if name in policy.expansion.values():
            raise refused(f"a {name} for all rows and several of them contradict each other", "one of both", field=name)
    ImageRequest("-", **defaults)


@frozen(kw_only=True, slots=False)  # for cached_property
class SheetPolicy:
    """How the rows of a list are read, and what is made of each. Raises InvalidRequestError for what cannot be.

    encoding: of text; UTF-8, with or without a mark, unless it is given. columns: the column of a field where it is
    called otherwise, {"prompt": "caption"}; then other columns of the list are no mistake. defaults: the fields of rows
    that say nothing themselves. expansion: several pictures of each row. template: `{a|b}` and `{column}` in prompts
    mean something. shard: the part of the list that is read. max_pictures: what an expansion may come to, at the most.
    """

    encoding: str = field(default="utf-8", converter=encoding_of)
    columns: Mapping[str, str] = field(factory=dict, validator=_check_columns)
    expansion: Expansion = _NO_EXPANSION
    defaults: Mapping[str, Any] = field(factory=dict, validator=_check_defaults)
    template: bool = False
    shard: Shard | None = None
    max_pictures: int = field(default=MAX_PICTURES, validator=validators.ge(1))

    @cached_property
    def reads(self) -> Columns:
        """How columns are read."""
        return Columns(self.columns, self.template)

    @cached_property
    def is_plain(self) -> bool:
        """Whether each row is one picture, and all that is known of it."""
        return not (self.defaults or self.template or self.expansion.values())

    def pictures(self, row: Row) -> tuple[int, Iterator[ImageRequest | InvalidRequestError]]:
        """How many pictures a row asks for, and each, lazily. Raises InvalidRequestError if the row asks for none."""
        if self.is_plain and row.copies == 1:
            return 1, iter((_request(row.fields),))
        for name, values in self.expansion.values().items():
            if name in row.fields:
                own = f"the row says {name} {shown(row.fields[name])}"
                some = ", ".join(map(str, values[:5])) + ("…" if len(values) > 5 else "")
                message = f"{own}, and every row is to be made in several ({some}): leave one of both out"
                raise refused(message, f"no {name}, or one for the whole list", field=name, value=row.fields[name])
        fields = {**self.defaults, **row.fields}
        if row.copies > 1 and (fields.get("seed") or self.expansion.seeds):
            message = f"{row.copies} pictures of one row with a seed are all the same: leave n or the seed out"
            raise refused(message, "n or a seed", field="seed", value=fields.get("seed"))
        prompt = fields.get("prompt")
        texts, variants = iter([prompt]), 1
        if self.template and isinstance(prompt, str):
            template = template_of(prompt, row.columns)
            texts, variants = (template.text(number, row.columns) for number in range(template.count)), template.count
        return variants * row.copies * self.expansion.count, self._expanded(fields, texts, variants, row.copies)

    def _expanded(
        self, fields: Mapping[str, Any], prompts: Iterator[Any], variants: int, copies: int
    ) -> Iterator[ImageRequest | InvalidRequestError]:
        name = fields.get("id")
        for number, prompt in enumerate(prompts, 1):
            variant = f"-v{number}" if variants > 1 else ""
            for changes, suffix in self.expansion.changes():
                for copy in range(1, copies + 1):
                    asked = {**fields, "prompt": prompt, **changes}
                    if name and isinstance(name, str):
                        asked["id"] = name + variant + suffix + (f"-{copy}" if copies > 1 else "")
                    yield _request(asked)


def _request(fields: Mapping[str, Any]) -> ImageRequest | InvalidRequestError:
    try:
        return ImageRequest.of(fields)
    except InvalidRequestError as error:
        return error
