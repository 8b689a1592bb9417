"""Where an option's value comes from: argument over environment over file over default, and a file that is wrong."""

import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from test_commands import Result, environment, run, run_all

from krea_async.cli.commands import krea_async
from krea_async.sandbox import Sandbox

pytestmark = pytest.mark.anyio


async def values_of(*args: object, cwd: Path, **env: str) -> dict[str, tuple[Any, str]]:
    """Each option's value and where it comes from."""
    result = await run(*args, "--show-config", "--json", env=environment(None, **env), cwd=cwd)
    assert result.code == 0, result.err
    return {key: (one["value"], one["from"]) for key, one in json.loads(result.out).items()}


async def refused(text: str, *args: object, cwd: Path, name: str = "krea-async.toml") -> str:
    """The one line that is said of a file of this text."""
    (cwd / name).write_text(text)
    result = await run(*(args or ("generate", "a fox")), env=environment(), cwd=cwd)
    assert (result.code, result.out) == (2, ""), result.err
    (line,) = result.err.splitlines()
    assert line.startswith(f"krea-async: {name}")
    return line


# --- precedence -------------------------------------------------------------------------------------------------------


async def test_argument_over_environment_over_file_over_default(tmp_path: Path) -> None:
    (tmp_path / "krea-async.toml").write_text(
        'concurrency = 5\nmax-usd = 20\n\n[generate]\nsize = "16:9"\ndownloads = 3\nrate = 2.5\nseed = 7\n'
    )
    env = {"KREA_ASYNC_DOWNLOADS": "4", "KREA_ASYNC_RATE": "1", "KREA_ASYNC_GENERATE_RATE": "1.5"}
    found = await values_of("generate", "a fox", "--downloads", "9", cwd=tmp_path, **env)
    assert found["downloads"] == (9, "argument")
    assert found["rate"] == (1.5, "environment KREA_ASYNC_GENERATE_RATE")
    assert found["size"] == ("16:9", "krea-async.toml:5: generate.size")
    assert found["concurrency"] == (5, "krea-async.toml:1: concurrency")
    assert found["seed"] == (7, "krea-async.toml:8: generate.seed")
    assert found["task-timeout"] == (1800.0, "default")


async def test_a_table_of_the_command_wins_over_the_top_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "krea-async.toml").write_text("json = true\ndownloads = 3\n[generate]\ndownloads = 5\njson = false\n")
    found = await values_of("generate", "a fox", cwd=tmp_path)
    assert found["downloads"][0] == 5
    assert (await values_of("resume", ".", cwd=tmp_path))["downloads"][0] == 3


async def test_what_a_file_says_is_done(sandbox: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(
        '[project]\nname = "mine"\n[tool.krea-async.generate]\nsize = "2:1"\nquality = "2K"\nnsfw-check = true\n'
    )
    env = environment(sandbox, KREA_ASYNC_SEED="11")
    result = await run("generate", "a fox", "--quality", "1K", env=env, cwd=tmp_path)
    assert result.code == 0, result.err
    (task,) = sandbox.ledger.tasks.values()
    assert (task.size, task.quality, task.seed_used, task.body["nsfw_check"]) == ("2:1", "1K", 11, True)


async def test_show_config_is_for_people_too_and_does_nothing(sandbox: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "krea-async.toml").write_text("downloads = 3\n")
    result = await run("render", "--show-config", env=environment(sandbox), cwd=tmp_path)
    assert result.code == 0, result.err
    assert "# configuration file: krea-async.toml\n" in result.out
    assert re.search(r"^downloads += 3 +# krea-async.toml:1: downloads$", result.out, re.MULTILINE)
    assert re.search(r"^base-url += .*# environment EVOLINK_BASE_URL$", result.out, re.MULTILINE)
    assert sandbox.key not in result.out
    assert "EVOLINK_API_KEY is set" in result.out
    assert not sandbox.ledger.requests


def test_showing_needs_no_argument_and_leaves_the_command_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    runner = CliRunner()
    assert runner.invoke(krea_async, ["resume", "--show-config"]).exit_code == 0
    refused = runner.invoke(krea_async, ["resume"])
    assert refused.exit_code == 2
    assert "Missing argument" in refused.output


# --- which file -------------------------------------------------------------------------------------------------------


async def test_the_nearest_file_upwards_counts_and_a_repository_ends_the_search(tmp_path: Path) -> None:
    (tmp_path / "krea-async.toml").write_text("downloads = 3\n")
    inner = tmp_path / "inner" / "deep"
    inner.mkdir(parents=True)
    assert (await values_of("generate", cwd=inner))["downloads"] == (3, "../../krea-async.toml:1: downloads")
    (tmp_path / "inner" / "pyproject.toml").write_text("[tool.ruff]\n")  # which is none of ours
    assert (await values_of("generate", cwd=inner))["downloads"][0] == 3
    (tmp_path / "inner" / ".git").mkdir()
    assert (await values_of("generate", cwd=inner))["downloads"] == (16, "default")
    (tmp_path / "inner" / "pyproject.toml").write_text("[tool.krea-async]\ndownloads = 4\n")
    place = "../pyproject.toml:2: tool.krea-async.downloads"
    assert (await values_of("generate", cwd=inner))["downloads"] == (4, place)


async def test_a_file_may_be_named_or_left_out(tmp_path: Path) -> None:
    (tmp_path / "krea-async.toml").write_text("downloads = 3\n")
    (tmp_path / "mine.toml").write_text("downloads = 4\n")
    show = partial(values_of, "generate", cwd=tmp_path)
    assert (await show())["downloads"][0] == 3
    assert (await values_of("generate", "--no-config", cwd=tmp_path))["downloads"] == (16, "default")
    assert (await values_of("generate", "--config", "mine.toml", cwd=tmp_path))["downloads"][0] == 4
    assert (await show(KREA_ASYNC_CONFIG="mine.toml"))["downloads"][0] == 4
    gone = await run("generate", "x", "--config", "gone.toml", env=environment(), cwd=tmp_path)
    assert (gone.code, gone.err) == (2, "krea-async: gone.toml cannot be read: No such file or directory\n")


async def test_a_broken_pyproject_of_somebody_else_is_not_our_business(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.other\n")
    assert (await values_of("generate", cwd=tmp_path))["downloads"] == (16, "default")


# --- what is wrong in a file ------------------------------------------------------------------------------------------


async def test_a_key_in_a_file_is_refused_and_not_repeated(tmp_path: Path) -> None:
    for text in (
        'api_key = "sk-evo-secret"\n',
        '[render]\nkey = "sk-evo-secret"\n',
        'EVOLINK-API-KEY = "sk-evo-secret"\n',
        '[generate]\nto = "sk-evo-secret"\n',
    ):
        line = await refused(text, cwd=tmp_path)
        assert "EVOLINK_API_KEY" in line
        assert "secret" not in line
    (tmp_path / "krea-async.toml").unlink()
    line = await refused('[tool.krea-async]\ntoken = "sk-evo-secret"\n', cwd=tmp_path, name="pyproject.toml")
    assert line.startswith("krea-async: pyproject.toml:2: ")
    assert "secret" not in line


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("concurency = 3\n", ":1: concurency: no command has such an option; did you mean 'concurrency'?"),
        ('[generate]\nsise = "1:1"\n', ":2: sise: generate has no such option; did you mean 'size'?"),
        ("[generate]\nmax-usd = 1\n", ":2: max-usd: generate has no such option"),
        ("[rendr]\nmax-usd = 1\n", ":1: there is no command 'rendr' to have a table; did you mean 'render'?"),
        ('[generate]\nseed = "7"\n', ":2: generate.seed: '7' is not a whole number"),
        ("[generate]\nseed = 7.5\n", ":2: generate.seed: 7.5 is not a whole number"),
        ("downloads = true\n", ":1: downloads: True is not a whole number"),
        ("downloads = 0\n", ":1: downloads: 0 is not in the range x>=1."),
        ('[generate]\njson = "yes"\n', ":2: generate.json: 'yes' is not true or false"),
        ("[generate]\nsize = [1]\n", ":2: generate.size: [1] is not a text"),
        ('[generate]\nsize = "16x9"\n', "did you mean '16:9'?"),
        ("a = \n", " is no TOML: "),
        ('base-url = "https://evil.example"\n', "the API key is sent there"),
    ],
)
async def test_what_is_wrong_is_named_with_its_place(tmp_path: Path, text: str, words: str) -> None:
    assert words in await refused(text, cwd=tmp_path)


async def test_a_found_file_may_name_a_sandbox_and_a_named_file_any_host(sandbox: Sandbox, tmp_path: Path) -> None:
    """Whoever can write a file above the working directory must not learn the key."""
    (tmp_path / "krea-async.toml").write_text(f'base-url = "{sandbox.url}"\n')
    result = await run("credits", env=environment(EVOLINK_API_KEY=sandbox.key), cwd=tmp_path)
    assert (result.code, json.loads(result.out)["remaining"]) == (0, 1_000.0)
    (tmp_path / "mine.toml").write_text('base-url = "https://relay.example"\n')
    named = await values_of("credits", "--config", "mine.toml", cwd=tmp_path)
    assert named["base-url"] == ("https://relay.example", "mine.toml:1: base-url")


async def test_wrong_values_in_the_environment_are_named(sandbox: Sandbox, tmp_path: Path) -> None:
    cases = ({"KREA_ASYNC_DOWNLOADS": "many"}, {"KREA_ASYNC_SIZE": "16x9"}, {"KREA_ASYNC_CONFIG": "gone.toml"})
    starts = [partial(run, "generate", "x", env=environment(sandbox, **env), cwd=tmp_path) for env in cases]
    results: list[Result] = await run_all(*starts)
    assert [result.code for result in results] == [2, 2, 2]
    many, size, gone = (result.err for result in results)
    assert "KREA_ASYNC_DOWNLOADS" in many
    assert "did you mean '16:9'?" in size
    assert "KREA_ASYNC_SIZE" in size
    assert "gone.toml cannot be read" in gone
    assert not sandbox.ledger.requests
