"""Shell completion: scripts that the shells take, and words that fit; nothing of it asks the network."""

import subprocess
import sys
from pathlib import Path

import pytest
from test_commands import PROGRAM, environment, run

pytestmark = pytest.mark.anyio

IN_BASH = """
PATH="$PWD/bin:$PATH"
eval "$(krea-async completion bash)"
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
_krea_async_completion krea-async
printf '%s\\n' "${COMPREPLY[@]}"
"""
STARTER = f'#!/bin/sh\nexec \'{sys.executable}\' -c "$PROGRAM" "$@"\n'


def completed_by_bash(*words: str, cwd: Path) -> list[str]:
    """What bash would offer for the last of these words."""
    (cwd / "bin").mkdir(exist_ok=True)
    (cwd / "bin" / "krea-async").write_text(STARTER)
    (cwd / "bin" / "krea-async").chmod(0o755)
    done = subprocess.run(
        ["bash", "--norc", "-c", IN_BASH, "bash", *words],
        env=environment(PROGRAM=PROGRAM),
        cwd=cwd,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return [line for line in done.stdout.splitlines() if line]


def test_bash_completes_commands_options_and_sizes(tmp_path: Path) -> None:
    assert completed_by_bash("krea-async", "re", cwd=tmp_path) == ["render", "resume", "report"]
    assert completed_by_bash("krea-async", "generate", "--s", cwd=tmp_path) == ["--size", "--seed", "--show-config"]
    assert completed_by_bash("krea-async", "generate", "--size", "16", cwd=tmp_path) == ["16:9"]
    assert completed_by_bash("krea-async", "completion", "f", cwd=tmp_path) == ["fish"]


async def completions(words: str, cwd: Path) -> list[str]:
    """What is answered to zsh, as `type value help` in three lines each."""
    parts = words.split()
    env = environment(
        _KREA_ASYNC_COMPLETE="bash_complete", COMP_WORDS=f"krea-async {words}", COMP_CWORD=str(len(parts))
    )
    result = await run(env=env, cwd=cwd)
    assert result.code == 0, result.err
    return result.out.split()


@pytest.mark.parametrize(
    ("words", "kind"),
    [("render pro", "file,pro"), ("estimate pro", "file,pro"), ("generate x --to ren", "file,ren")],
)
async def test_files_are_left_to_the_shell(tmp_path: Path, words: str, kind: str) -> None:
    assert kind in await completions(words, tmp_path)


async def test_directories_are_left_to_the_shell(tmp_path: Path) -> None:
    for words in ("resume ren", "report ren", "render x.txt --out ren"):
        assert await completions(words, tmp_path) == ["dir,ren"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
async def test_each_shell_has_its_script(tmp_path: Path, shell: str) -> None:
    (tmp_path / "krea-async.toml").write_text("nonsense = = 1\n")  # which must not break the start of a shell
    result = await run("completion", shell, env=environment(PATH=""), cwd=tmp_path)
    assert (result.code, result.err) == (0, "")
    assert f"{shell}_complete" in result.out
    assert "krea-async" in result.out


async def test_another_shell_is_refused_with_the_nearest(tmp_path: Path) -> None:
    result = await run("completion", "zhs", env=environment(), cwd=tmp_path)
    assert result.code == 2
    assert "did you mean 'zsh'?" in result.err


async def test_a_broken_configuration_completes_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "krea-async.toml").write_text("nonsense = = 1\n")
    assert "plain,16:9" in await completions("generate --size 16", tmp_path)
