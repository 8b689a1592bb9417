"""The names and signatures that users and other projects rely on, and what an import may cost."""

import ast
import inspect
import subprocess
import sys
from inspect import Parameter
from types import ModuleType

import pytest

import krea_async
from krea_async import ImageRequest, KreaError, KreaSession

DESIGNED = {
    *("KreaSession", "ImageRequest", "GeneratedImage", "BatchReport", "Job"),
    *("KreaError", "InvalidRequestError", "AuthenticationError", "AccessDeniedError", "InsufficientCreditsError"),
    *("RateLimitedError", "ServiceError", "TaskFailedError", "ContentPolicyError", "TaskTimeoutError"),
    *("TaskNotFoundError", "DownloadError", "ImageExpiredError", "InvalidImageError", "BudgetExceededError"),
    "JournalError",
}


def test_exactly_the_listed_names_are_public() -> None:
    """Nothing becomes part of the API by accident."""
    public = {
        name
        for name in dir(krea_async)
        if not name.startswith("_") and not isinstance(getattr(krea_async, name), ModuleType)
    }
    assert public | {"__version__"} == set(krea_async.__all__)
    assert len(krea_async.__all__) == len(set(krea_async.__all__))


def test_type_checkers_are_told_of_the_same_names_in_the_same_modules() -> None:
    """They are imported lazily, so what stands under TYPE_CHECKING is never run."""
    tree = ast.parse(inspect.getsource(krea_async))
    (typed,) = (node for node in tree.body if isinstance(node, ast.If))
    told = {alias.name: node.module for node in typed.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert told == {name: f"krea_async.{home}" for name, home in vars(krea_async)["_HOMES"].items()}
    assert {*told, "__version__"} == {*krea_async.__all__}


def test_a_name_that_is_not_public_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match="no attribute 'KreaClient'"):
        krea_async.KreaClient  # noqa: B018


def test_importing_the_package_alone_imports_no_library() -> None:
    """What is asked for first brings it: a script that only wants the version does not pay for aiohttp."""
    program = "import sys, krea_async; print(sorted({'aiohttp', 'anyio', 'attrs', 'aiofiles'} & set(sys.modules)))"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"


@pytest.mark.parametrize("name", sorted(vars(krea_async)["_SUBMODULES"]))
def test_importing_the_package_is_enough_for_its_public_modules(name: str) -> None:
    program = f"import krea_async; print(krea_async.{name}.__name__)"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == f"krea_async.{name}"


def test_every_name_of_the_design_is_public() -> None:
    assert set(krea_async.__all__) >= DESIGNED
    assert all(hasattr(krea_async, name) for name in DESIGNED)


@pytest.mark.parametrize("name", sorted(name for name in DESIGNED if name.endswith("Error")))
def test_every_error_is_a_krea_error_with_its_facts(name: str) -> None:
    error = getattr(krea_async, name)("words")
    assert isinstance(error, KreaError)
    for fact in ("status", "code", "request_id", "task_id", "retryable", "charged"):
        assert hasattr(error, fact)


@pytest.mark.parametrize(
    ("child", "parent"),
    [
        ("ContentPolicyError", "TaskFailedError"),
        ("ImageExpiredError", "DownloadError"),
        ("InvalidImageError", "DownloadError"),
    ],
)
def test_the_tree_has_the_designed_branches(child: str, parent: str) -> None:
    assert issubclass(getattr(krea_async, child), getattr(krea_async, parent))


def test_a_session_takes_the_designed_arguments() -> None:
    parameters = inspect.signature(KreaSession).parameters
    assert next(iter(parameters)) == "api_key"
    assert parameters["api_key"].kind is Parameter.POSITIONAL_OR_KEYWORD
    defaults = {"base_url": None, "concurrency": None, "rate": None, "downloads": 16, "task_timeout_s": 1800.0}
    for name, default in defaults.items():
        assert parameters[name].kind is Parameter.KEYWORD_ONLY
        assert parameters[name].default == default
    assert parameters["api_key"].default is None


def test_a_request_takes_the_designed_arguments() -> None:
    parameters = inspect.signature(ImageRequest).parameters
    designed = {
        "size": "1:1",
        "quality": "1K",
        "seed": None,
        "nsfw_check": False,
        "callback_url": None,
        "id": None,
    }
    assert list(parameters) == ["prompt", *designed]
    for name, default in designed.items():
        assert parameters[name].kind is Parameter.KEYWORD_ONLY
        assert parameters[name].default == default


def test_the_session_has_the_designed_methods() -> None:
    generate = inspect.signature(KreaSession.generate).parameters
    assert list(generate)[:2] == ["self", "prompt"]
    assert {"size", "quality", "to"} <= set(generate)
    submit = inspect.signature(KreaSession.submit).parameters
    assert list(submit) == ["self", "request", "priority"]
    assert submit["priority"].kind is inspect.Parameter.KEYWORD_ONLY
    assert list(inspect.signature(KreaSession.attach).parameters) == ["self", "task_id"]
    assert list(inspect.signature(KreaSession.render).parameters)[:3] == ["self", "prompts", "directory"]
    assert list(inspect.signature(KreaSession.credits).parameters) == ["self"]


def test_importing_the_package_imports_nothing_of_the_extras() -> None:
    """A service that never opens a terminal does not pay for its tools."""
    foreign = "{'click', 'rich', 'PIL', 'pytest', 'hypothesis', 'psutil', 'opentelemetry'}"
    program = f"import sys; from krea_async import *; print(sorted({foreign} & set(sys.modules)))"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"


def test_importing_the_package_starts_no_sandbox_and_no_command_line() -> None:
    program = "import sys; from krea_async import *; print([m for m in sys.modules if m.startswith('krea_async.')])"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "krea_async.sandbox" not in ended.stdout
    assert "krea_async.cli" not in ended.stdout
