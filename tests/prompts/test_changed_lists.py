"""What is sent was checked and priced: a list that changes in between is told of, and nothing of it is paid unseen."""

from pathlib import Path

from krea_async import ImageRequest, InvalidRequestError
from krea_async.prompts import PromptList


def test_a_list_that_was_rewritten_since_it_was_opened_sends_nothing(tmp_path: Path) -> None:
    """In place, as `>` does; an editor that puts another file in its place changes nothing of the open one."""
    path = tmp_path / "prompts.csv"
    path.write_text("prompt,quality\na fox,1K\n")
    with PromptList.open(path) as rows:
        assert [*rows.check()] == []
        path.write_text("prompt,quality\na fox,2K\n" * 10)
        (row,) = rows
    assert isinstance(row, InvalidRequestError)
    assert "has changed since it was opened" in row.message


def test_rows_that_are_put_behind_a_list_while_it_is_read_are_not_sent(tmp_path: Path) -> None:
    """They were neither checked nor priced; the next run has them."""
    path = tmp_path / "prompts.txt"
    path.write_text("".join(f"fox {n} {'x' * 1000}\n" for n in range(500)))
    with PromptList.open(path) as rows:
        assert [*rows.check()] == []
        reading = iter(rows)
        first = next(reading)
        with path.open("a") as file:
            file.write("a cat\na dog\n")
        *others, last = reading
    assert all(isinstance(row, ImageRequest) for row in (first, *others))
    assert len(others) == 499
    assert isinstance(last, InvalidRequestError)
    assert "prompts.txt:501: this row is new since the list was checked" in last.message
