"""A batch run by a person or a script: progress, signals, the report, the exit code.

The first Ctrl-C (or SIGTERM) stops submitting and finishes what is paid for; the second stops now.
"""

import json
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
from anyio.abc import CancelScope

from krea_async.batch import Batch, Prompts
from krea_async.cli.exits import exit_of_report, exit_of_signal
from krea_async.cli.progress import ProgressView, clock, keep_showing, progress_view
from krea_async.errors import KreaError
from krea_async.results import BatchReport, GeneratedImage
from krea_async.session import KreaSession
