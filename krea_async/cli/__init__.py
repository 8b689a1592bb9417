"""The command line. Paths and JSON on stdout, everything else on stderr; `exits` says what the exit codes mean."""

import io
import signal
import sys


def main() -> None:
    """Run `krea-async`; the entry point of the installed script."""
    try:
        from krea_async.cli.commands import krea_async  # noqa: PLC0415 - needs an extra that may be missing
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except ImportError as error:
        if error.name is None or error.name.partition(".")[0] not in {"click", "rich"}:
            raise
        sys.exit(f"krea-async: the command line needs {error.name}; install it with: pip install 'krea-async[cli]'")
    if isinstance(sys.stdout, io.TextIOWrapper) and not sys.stdout.isatty():  # a path is printed whatever is in it
        sys.stdout.reconfigure(encoding=sys.getfilesystemencoding(), errors=sys.getfilesystemencodeerrors())
    krea_async(prog_name="krea-async")
