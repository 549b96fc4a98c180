"""``rait metrics``: how the links are, for a node_exporter that reads a file (or for anybody)."""

from __future__ import annotations

from argparse import Namespace

from rait.adapters.config.source import STDIN
from rait.adapters.output import may_replace, write_file
from rait.app.metrics import exposed
from rait.app.options import Options, require_path
from rait.app.status import StatusReader
from rait.app.status_words import unknown
from rait.domain.errors import ConfigError, RaitError
from rait.domain.status import Status
from rait.terminal import DONE, FAILED, WRONG, print_text, warn, warn_of


def run(options: Options, arguments: Namespace) -> int:
    to = arguments.output
    name = to if to == STDIN else require_path("--output", "a file", to)
    if to != STDIN and not may_replace(to):
        raise ConfigError(f"{name}: it is there, and is no regular file, so it stays as it is")
    status, result = _look(options)
    text, _ = exposed(status)
    if to == STDIN:
        print_text(text.decode().removesuffix("\n"))
    else:
        write_file(to, name, text)
    return result


def _look(options: Options) -> tuple[Status | None, int]:
    """The status, and the exit status. What is unknown is for the metrics to say too.

    What is old in a file would else look as if it were new.
    """
    try:
        status = StatusReader(options).read()
    except RaitError as error:
        warn_of(error)
        return None, WRONG if isinstance(error, ConfigError) else FAILED
    except OSError as error:
        warn(str(error))
        return None, FAILED
    if status.problem:
        warn(unknown(status))
        return status, FAILED
    return status, DONE
