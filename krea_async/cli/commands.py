"""The commands of `krea-async`: what there is, and where each is made. None of them is imported before it is called."""

import logging

import click

from krea_async._version import __version__
from krea_async.cli.group import LazyGroup

COMMANDS = {
    "Make pictures": {
        "render": ("Make a picture of every row of prompt lists.", "krea_async.cli.render:render"),
        "resume": ("Go on with what was begun in a directory, without its list.", "krea_async.cli.render:resume"),
        "generate": ("Make one picture and print its path.", "krea_async.cli.generate:generate"),
        "estimate": ("Price a list, and say how long it takes.", "krea_async.cli.estimate:estimate_command"),
    },
    "Look at what was made": {
        "gallery": ("Show the pictures of a directory as a page.", "krea_async.cli.gallery:gallery_command"),
        "report": ("Print the books of a directory.", "krea_async.cli.directory:report_command"),
        "verify": (
            "Compare the pictures of a directory with what was saved.",
            "krea_async.cli.directory:verify_command",
        ),
        "compact": ("Make the journal of a directory smaller.", "krea_async.cli.directory:compact_command"),
        "task": ("Look one task up, wait for it, or fetch its picture.", "krea_async.cli.task:task_command"),
    },
    "Set up": {
        "demo": ("Render a dozen pictures without a key, cost or network.", "krea_async.cli.demo:demo"),
        "doctor": (
            "Look for whatever would keep a run from going well.",
            "krea_async.cli.doctor.command:doctor_command",
        ),
        "credits": ("Print the balance.", "krea_async.cli.account:credits_command"),
        "sandbox": ("Serve a local gateway to try things on.", "krea_async.cli.sandbox:sandbox"),
        "completion": ("Print the script that completes words in a shell.", "krea_async.cli.completion:completion"),
    },
}


@click.group(
    cls=LazyGroup, table=COMMANDS, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__)
@click.option("-v", "--verbose", count=True, help="Say more: -v what happens, -vv all of it.")
def krea_async(verbose: int) -> None:
    """Render pictures in bulk through EvoLink's krea-2-turbo API.

    The key comes from EVOLINK_API_KEY and is never an argument. Paths and JSON go to stdout, all else to stderr.

    \b
    Try it without a key:      krea-async demo
    Is all as it should be?    krea-async doctor
    A list of prompts:         krea-async render prompts.txt --out renders/
    What it would cost:        krea-async estimate prompts.txt renders/
    One picture:               krea-async generate "a lighthouse at dusk" --size 16:9
    All pictures on a page:    krea-async gallery renders/ --open
    Is every picture there?    krea-async verify renders/
    What did it cost?          krea-async report renders/
    A gateway of your own:     krea-async sandbox --port 8787

    \b
    Every option of a command may stand in krea-async.toml or in the environment: --max-usd is
    max-usd or KREA_ASYNC_MAX_USD. --show-config tells where each value comes from.

    \b
    Exit codes: 0 all saved; 1 internal error; 2 usage or bad input; 3 some rows failed, or
    verify found problems; 4 key refused; 5 credits or budget ran out; 6 service unavailable;
    7 unfinished; 9 disk, or the directory is in use; 130/143 after a signal.
    """  # noqa: D301 - the escapes are meant: they keep click from joining the lines
    from krea_async.cli.watching.progress import StderrHandler  # noqa: PLC0415 - not for the help

    level = {0: logging.WARNING, 1: logging.INFO}.get(verbose, logging.DEBUG)
    logging.basicConfig(level=level, format="%(levelname)s %(name)s: %(message)s", handlers=[StderrHandler()])
