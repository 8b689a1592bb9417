"""Values that no option may have, from the command line and from a file: a line that says so, never a traceback."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from krea_async.cli.commands import krea_async


def told(*words: str) -> str:
    """What a command says that is refused as wrong usage."""
    result = CliRunner().invoke(krea_async, words)
    assert result.exit_code == 2, result.exception
    return result.output


@pytest.mark.parametrize("value", ["nan", "inf", "1e999"])
@pytest.mark.parametrize("option", ["--max-usd", "--max-credits", "--ask-above", "--drain", "--rate", "--task-timeout"])
def test_a_number_is_finite(tmp_path: Path, option: str, value: str) -> None:
    """NaN is neither above a cap nor below it: nothing would be asked, and nothing be held back."""
    (tmp_path / "p.txt").write_text("a fox\n")
    assert "is no number" in told("render", str(tmp_path / "p.txt"), str(tmp_path / "out"), option, value)
    assert not (tmp_path / "out").exists()


def test_a_number_of_a_file_is_finite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("krea-async.toml").write_text("max-usd = nan\n")
    assert "krea-async.toml:1: max-usd: nan is no number" in told("render", "p.txt")


def test_an_empty_path_is_not_the_directory_that_one_is_in(tmp_path: Path) -> None:
    """As `render prompts.txt "$OUT"` gives it where OUT is not set."""
    (tmp_path / "p.txt").write_text("a fox\n")
    for words in (["render", str(tmp_path / "p.txt"), ""], ["render", str(tmp_path / "p.txt"), "--out", ""]):
        assert "the path is empty; is a variable not set?" in told(*words)


def test_an_empty_template_of_names_is_none(tmp_path: Path) -> None:
    assert "--name: the template gives no name" in told("render", str(tmp_path / "p.txt"), "--name", "")


def test_paths_that_no_disk_has_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for words in (["compact", "a" * 300], ["generate", "a fox", "--to", "a" * 300]):
        result = CliRunner(env={"EVOLINK_API_KEY": "k"}).invoke(krea_async, words)
        assert (result.exit_code, result.output.count("File name too long")) == (9, 1)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("krea-async.toml", f"a = {'[' * 20_000}", "is no TOML"),
        ("krea-async.toml", f"seed = {'9' * 20_000}", "is no TOML"),
        ("pyproject.toml", "[tool]\nkrea-async = 5\n", "tool.krea-async is no table"),
        ("krea-async.toml", 'code = ["sk-evo-0123456789"]\n', "an API key does not belong into a file"),
        ("krea-async.toml", 'base-url = "http://192.168.1.66"\n', "may name this machine and no other"),
        ("krea-async.toml", 'base-url = "http://printer.local"\n', "may name this machine and no other"),
        ("krea-async.toml", 'base-url = "http://[::1"\n', "may name this machine and no other"),
    ],
)
def test_a_file_that_somebody_else_wrote_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str, words: str
) -> None:
    """The nearest such file is read on every command, and a repository may come from anybody."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EVOLINK_BASE_URL", raising=False)
    Path(name).write_text(text)
    output = told("render", "p.txt")
    assert words in output
    assert "sk-evo-0" not in output


def test_other_peoples_pyproject_is_nothing_to_us(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("pyproject.toml").write_text('tool = "krea-async"\n')
    assert "no configuration file" in CliRunner().invoke(krea_async, ["render", "--show-config"]).output


def test_one_value_of_an_option_that_may_have_several_needs_no_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("krea-async.toml").write_text('retry-failed = true\ncode = "service_error"\n')
    assert '["service_error"]' in CliRunner().invoke(krea_async, ["render", "--show-config"]).output


def test_a_prompt_does_nothing_to_the_terminal(tmp_path: Path) -> None:
    """The preview on stdout shows the first prompts, which may come from anybody."""
    (tmp_path / "p.csv").write_text("prompt\n\x1b]0;title\x07 fox\n")
    result = CliRunner().invoke(krea_async, ["estimate", str(tmp_path / "p.csv")])
    assert "\\x1b]0;title\\x07 fox" in result.output


def test_resume_has_no_option_for_new_rows() -> None:
    """All rows that it takes up were noted before, with their names and seeds."""
    for option in ("--name", "--record-seeds"):
        assert f"No such option '{option}'" in told("resume", ".", option)
