"""What tests of prompt sheets share: writing one, and reading it as a run does, checked first."""

import gzip
import io
from pathlib import Path

from krea_async.errors import InvalidRequestError
from krea_async.models import ImageRequest, IndexedRequest
from krea_async.prompts import Format, PromptList, RowProblem, SheetPolicy


def sheet(directory: Path, name: str, content: str | bytes) -> Path:
    """A file, packed if its name says so."""
    data = content.encode() if isinstance(content, str) else content
    path = directory / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


def problems_of(
    *paths: Path | str,
    policy: SheetPolicy | None = None,
    format: Format | None = None,  # noqa: A002
) -> list[RowProblem]:
    with PromptList.open(*paths, policy=policy, format=format) as rows:
        return list(rows.check())


def rows_of(
    *paths: Path | str,
    policy: SheetPolicy | None = None,
    format: Format | None = None,  # noqa: A002
    stdin: bytes | None = None,
) -> list[ImageRequest]:
    """The rows of a list without a problem."""
    with PromptList.open(
        *paths, policy=policy, format=format, stdin=None if stdin is None else io.BytesIO(stdin)
    ) as rows:
        assert [str(problem) for problem in rows.check()] == []
        found = [row.request if isinstance(row, IndexedRequest) else row for row in rows]
        assert rows.rows == len(found)
    requests = [row for row in found if not isinstance(row, InvalidRequestError)]
    assert len(requests) == len(found)
    return requests


def prompts_of(*paths: Path | str, policy: SheetPolicy | None = None) -> list[str]:
    return [row.prompt for row in rows_of(*paths, policy=policy)]
