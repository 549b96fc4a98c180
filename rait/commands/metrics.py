"""``rait metrics``: how the links are, for a node_exporter that reads a file (or for anybody)."""

from __future__ import annotations

from argparse import Namespace

from rait.adapters.config.source import STDIN
from rait.adapters.output import may_replace, replace_file
from rait.app.metrics import exposed
from rait.app.options import Options, require_path
from rait.app.status import StatusReader
from rait.app.status_words import unknown
from rait.domain.errors import ConfigError, RaitError, SourceError
from rait.terminal import DONE, FAILED, WRONG, print_text, warn, warn_of


def run(options: Options, arguments: Namespace) -> int:
    to = arguments.output
    name = to if to == STDIN else require_path("--output", "a file", to)
    if to != STDIN and not may_replace(to):
        raise ConfigError(f"{name}: it is there, and is no regular file, so it stays as it is")
    status, result = None, DONE
    try:
        status = StatusReader(options).read()
    except RaitError as error:
        # Written all the same: what is old in the file would look as if it were new.
        warn_of(error)
        result = WRONG if isinstance(error, ConfigError) else FAILED
    else:
        if status.problem:
            warn(unknown(status))
            result = FAILED
    text, _ = exposed(status)
    if to == STDIN:
        print_text(text.decode().removesuffix("\n"))
        return result
    try:
        replace_file(to, text)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise SourceError(f"{name}: cannot be written: {why}") from None
    return result
