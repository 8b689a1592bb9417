"""`krea-async completion`: click's own scripts, printed for whoever wants words completed."""

import sys
from typing import Final

import click
from click.shell_completion import ShellComplete, get_completion_class

from krea_async.cli.options.choices import OneOf
from krea_async.cli.output import put, say

_INSTALLED_BY: Final = {
    "bash": 'add to ~/.bashrc:  eval "$(krea-async completion bash)"',
    "zsh": 'add to ~/.zshrc:  eval "$(krea-async completion zsh)"',
    "fish": "once:  krea-async completion fish > ~/.config/fish/completions/krea-async.fish",
}


@click.command(short_help="Print the script that completes words in a shell.")
@click.argument("shell", type=OneOf([*_INSTALLED_BY]))
def completion(shell: str) -> None:
    """Print the script for SHELL (bash, zsh or fish): commands, options, sizes, files and directories are completed.

    \b
    bash:  eval "$(krea-async completion bash)"     in ~/.bashrc
    zsh:   eval "$(krea-async completion zsh)"      in ~/.zshrc
    fish:  krea-async completion fish > ~/.config/fish/completions/krea-async.fish
    """  # noqa: D301 - the escapes are meant: they keep click from joining the lines
    kind = get_completion_class(shell)
    if kind is None:
        raise click.ClickException(f"this click knows nothing of {shell}")
    script = kind(click.get_current_context().find_root().command, {}, "krea-async", "_KREA_ASYNC_COMPLETE")
    put(ShellComplete.source(script))  # that of bash first looks for one, which may not be here
    if sys.stdout.isatty():
        say(_INSTALLED_BY[shell])
