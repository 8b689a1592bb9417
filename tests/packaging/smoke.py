"""Uses an installed krea-async as a newcomer does. Run by `nox -s package` with nothing of the sources in reach.

`python -I smoke.py core` where no extra is installed, `python -I smoke.py cli` where the command line is.
"""

import subprocess
import sys
import sysconfig
import tempfile
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

OF_EXTRAS = ("click", "rich", "PIL", "pyarrow", "opentelemetry", "uvloop")
HERE = Path(sysconfig.get_path("scripts"))


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The installed script, as a shell would run it."""
    command = [str(HERE / "krea-async"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def uses_core() -> None:
    """The library is whole without any extra, and the script says which one it needs."""
    import krea_async  # noqa: PLC0415

    installed = Path(krea_async.__file__).parent
    assert installed.is_relative_to(sysconfig.get_path("purelib")), installed
    assert (installed / "py.typed").is_file()
    assert krea_async.__version__ == version("krea-async")
    for name in krea_async.__all__:
        getattr(krea_async, name)


def is_told_of_the_extra() -> None:
    assert not [name for name in OF_EXTRAS if find_spec(name)], "an extra came with the core"
    told = run("--help")
    assert told.returncode != 0
    assert "pip install 'krea-async[cli]'" in told.stderr, told.stderr


def uses_the_command_line() -> None:
    """From `--help` to pictures and their contact sheet, without a key."""
    shown = run("--version")
    assert version("krea-async") in shown.stdout, shown
    shown = run("--help")
    assert shown.returncode == 0, shown
    assert "render" in shown.stdout
    with tempfile.TemporaryDirectory() as directory:
        demo = run("demo", "--out", directory)
        assert demo.returncode == 0, demo.stderr
        pictures = [path for path in Path(directory).iterdir() if path.suffix in {".png", ".jpg", ".webp"}]
        assert len(pictures) >= 12, sorted(Path(directory).iterdir())
        assert (Path(directory) / "gallery.html").stat().st_size > 10_000, "the demo wrote no contact sheet"
        verified = run("verify", directory)
        assert verified.returncode == 0, verified.stdout + verified.stderr


if __name__ == "__main__":
    uses_core()
    uses_the_command_line() if sys.argv[1] == "cli" else is_told_of_the_extra()
    print(f"installed and used ({sys.argv[1]}): krea-async {version('krea-async')}")
