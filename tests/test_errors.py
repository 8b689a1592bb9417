"""Errors: a tree by what to do next, facts as attributes, and all of it survives pickling."""

import copy
import inspect
import pickle
from typing import Any

import pytest

from krea_async import errors
from krea_async.errors import InvalidRequestError, KreaError, RateLimitedError, TaskTimeoutError

CLASSES = sorted(
    (cls for _, cls in inspect.getmembers(errors, inspect.isclass) if issubclass(cls, KreaError)),
    key=lambda cls: cls.__name__,
)
every_class = pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)

FACTS: dict[str, Any] = {
    "status": 429,
    "code": "rate_limit_exceeded",
    "request_id": "req-1",
    "task_id": "task-1",
    "retry_after_s": 1.5,
    "retryable": True,
    "charged": "unknown",
}


def drawn_tree() -> dict[str, str]:
    """Each class of the module docstring's drawing, with its parent."""
    parents: dict[int, str] = {}
    tree = {}
    assert errors.__doc__
    for line in errors.__doc__.splitlines():
        name = line.strip(" │├└─").split(" ")[0]
        if name.endswith("Error"):
            depth = line.index(name)
            parents[depth] = name
            above = [parent for place, parent in sorted(parents.items()) if place < depth]
            tree[name] = above[-1] if above else "Exception"
    return tree


def test_the_tree_is_the_one_that_is_drawn() -> None:
    assert drawn_tree() == {cls.__name__: cls.__base__.__name__ for cls in CLASSES if cls.__base__}
    assert len(CLASSES) == 18


@every_class
def test_every_class_says_when_it_is_raised(cls: type[KreaError]) -> None:
    assert cls.__doc__
    assert cls.__module__ == "krea_async.errors"


@every_class
def test_pickling_and_copying_keep_every_fact(cls: type[KreaError]) -> None:
    error = cls("it broke", **FACTS)
    error.add_note("row 7")
    pickled = [pickle.loads(pickle.dumps(error, protocol)) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)]
    for clone in (*pickled, copy.copy(error), copy.deepcopy(error)):
        assert type(clone) is cls
        assert vars(clone) == vars(error)
        assert clone.args == error.args == ("it broke",)
        assert str(clone) == str(error)
        assert clone.__notes__ == ["row 7"]


@every_class
def test_defaults_survive_pickling_too(cls: type[KreaError]) -> None:
    error = cls("it broke")
    clone = pickle.loads(pickle.dumps(error))
    facts = ("message", "status", "code", "request_id", "task_id", "retry_after_s", "retryable", "charged")
    assert [getattr(clone, fact) for fact in facts] == [getattr(error, fact) for fact in facts]
    assert [getattr(error, fact) for fact in facts[:6]] == ["it broke", None, None, None, None, None]


def test_a_refused_field_survives_pickling() -> None:
    error = InvalidRequestError("size", field="size", value=["16x9"], allowed="one of", status=400)
    clone = pickle.loads(pickle.dumps(error))
    assert (clone.field, clone.value, clone.allowed, clone.status) == ("size", ["16x9"], "one of", 400)


def test_a_cause_does_not_hinder_pickling() -> None:
    error = KreaError("it broke")
    error.__cause__ = OSError("reset")
    assert str(pickle.loads(pickle.dumps(error))) == "it broke"


def test_str_is_the_message_and_the_facts_that_there_are() -> None:
    assert str(KreaError("it broke")) == "it broke"
    assert str(KreaError("it broke", status=500, task_id="t")) == "it broke (status 500, task t)"
    assert (
        str(RateLimitedError("slow down", **FACTS))
        == "slow down (status 429, code rate_limit_exceeded, task task-1, request req-1, charged: unknown)"
    )
    assert str(TaskTimeoutError("late", task_id="t")) == "late (task t, charged: unknown)"
    assert str(TaskTimeoutError("late", charged="no")) == "late"


def test_what_may_be_tried_again_and_what_was_paid() -> None:
    retryable = {cls.__name__ for cls in CLASSES if cls("x").retryable}
    assert retryable == {"RateLimitedError", "QueueFullError", "ServiceError", "InvalidImageError"}
    charged = {cls.__name__: cls("x").charged for cls in CLASSES if cls("x").charged != "no"}
    assert charged == {
        "TaskTimeoutError": "unknown",
        "TaskNotFoundError": "unknown",
        "DownloadError": "yes",
        "ImageExpiredError": "yes",
        "InvalidImageError": "yes",
    }


def test_facts_of_one_error_are_not_those_of_its_class() -> None:
    assert RateLimitedError("x", retryable=False).retryable is False
    assert KreaError("x", retryable=True, charged="yes").charged == "yes"
    assert (KreaError.retryable, KreaError.charged, RateLimitedError.retryable) == (False, "no", True)


def test_unknown_facts_are_refused() -> None:
    with pytest.raises(TypeError):
        InvalidRequestError("x", colour="red")
