"""``rait status``: how our links are, once, again and again, or as a check for a monitor."""

from __future__ import annotations

import signal
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import IO, TYPE_CHECKING, cast

import msgspec
from msgspec import Struct, structs

from rait.app.options import Options
from rait.app.status import StatusReader, status_object
from rait.app.status_words import (
    SHORT_KEY,
    amount,
    called,
    cost,
    fault_lines,
    handshake,
    reach,
    rtt,
    summary,
    traffic,
    unknown,
)
from rait.domain.errors import ConfigError, RaitError
from rait.domain.status import LinkStatus, Rates, Status, rates
from rait.terminal import (
    DONE,
    FAILED,
    Drawing,
    bounded,
    clean,
    is_terminal,
    print_json,
    print_result,
    print_text,
    table,
    to_json,
    warn,
)

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

_SHORTEST, _LONGEST = 0.1, 86400.0
"""Seconds between two looks of ``--watch``."""

_SPARE = ("KEY", "HOW", "REACH", "RTT", "COST", "TX/S", "RX/S", "SENT", "RECEIVED", "ENDPOINT")
"""What is left out on a terminal that is too narrow, the first of these first."""

_MOST_OF_A_TEXT = 300
"""Characters of one cell on a terminal: a name may be as long as a registry's author likes."""

_STYLES = {"failed": "red", "missing": "red", "stale": "yellow", "never": "yellow", "live": "green"}


class View(Struct, frozen=True):
    """What is shown of one look: the status, and under ``--watch`` the rates since the look before.

    ``problem`` says why there is no newer status.
    """

    status: Status
    rates: Mapping[str, Rates] | None = None
    problem: str = ""


def run(options: Options, arguments: Namespace) -> int:
    reader = StatusReader(options)
    if arguments.watch is not None:
        return _watch(reader, arguments.watch, as_json=arguments.json)
    view = View(reader.read())
    status = view.status
    if arguments.json:
        print_json(status_object(status))
    elif arguments.check:
        print_result(summary(status), *fault_lines(status))
    elif is_terminal():
        console = _console()
        console.print(_drawn(view, console.width))
    else:
        warn(*_problems(view))
        print_result(*status_lines(view))
    return FAILED if arguments.check and not status.healthy else DONE


class Column(Struct, frozen=True):
    """A column of the table. On a terminal, a cell of more than ``most`` characters is folded."""

    head: str
    cell: Callable[[LinkStatus], str]
    right: bool = False
    most: int | None = None


def _columns(view: View) -> list[Column]:
    """The columns, but for those about babel and about what is wrong."""
    columns = [
        Column("LINK", lambda link: link.name),
        Column("PEER", lambda link: link.peer or "-", most=24),
        Column("KEY", lambda link: link.public_key[:SHORT_KEY] or "-"),
        Column("STATE", lambda link: link.state),
        Column("ENDPOINT", lambda link: str(link.endpoint or "-"), most=48),
        Column("HOW", lambda link: link.endpoint_is or "-"),
        Column("HANDSHAKE", handshake, right=True),
        Column("RECEIVED", lambda link: traffic(link, link.received), right=True),
        Column("SENT", lambda link: traffic(link, link.sent), right=True),
    ]
    speeds = view.rates
    if speeds is not None:
        columns.append(Column("RX/S", lambda link: _speed(link, speeds, "received"), True))
        columns.append(Column("TX/S", lambda link: _speed(link, speeds, "sent"), True))
    return columns


def _speed(link: LinkStatus, speeds: Mapping[str, Rates], which: str) -> str:
    speed = speeds.get(link.name)
    return "-" if speed is None else amount(getattr(speed, which))


_BABEL = (
    Column("REACH", reach),
    Column("COST", cost, right=True),
    Column("RTT", rtt, right=True),
)
_WHY = Column("WHY", lambda link: link.why or "-")


def status_lines(view: View) -> list[str]:
    """The status as lines of plain text, links by their names, and always with all columns."""
    columns = (*_columns(view), *_BABEL, _WHY)
    head = tuple(column.head for column in columns)
    rows = (tuple(column.cell(link) for column in columns) for link in view.status.links)
    return [summary(view.status), *(table([head, *rows]) if view.status.links else ())]


def _console() -> Console:
    from rich.console import Console  # here, as to draw is for terminals alone

    out = cast("IO[str]", Drawing())
    return Console(file=out, highlight=False, markup=False, emoji=False)


def _drawn(view: View, width: int) -> RenderableType:
    """The status for a terminal of so many columns: first the links that most need a look."""
    from rich.console import Group
    from rich.text import Text

    links = view.status.worst_first()
    whys = (f"{called(link)} is {link.state}: {link.why}" for link in links if link.why)
    return Group(
        Text(clean(summary(view.status)), "bold"),
        *(Text(clean(line), "red") for line in _problems(view)),
        *([_grid(view, links, width)] if links else []),
        *(Text(_bounded(why), "red") for why in whys),
    )


def _grid(view: View, links: Sequence[LinkStatus], width: int) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    columns = _fitting(view, links, width)
    grid = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for column in columns:
        grid.add_column(
            column.head,
            justify="right" if column.right else "left",
            max_width=column.most,
            overflow="fold",
            no_wrap=column.most is None,
        )
    for link in links:
        cells = {column.head: Text(_bounded(column.cell(link))) for column in columns}
        is_quiet = link.healthy and link.state != "live"
        cells["STATE"].stylize("dim" if is_quiet else _STYLES[link.state])
        grid.add_row(*cells.values())
    return grid


def _fitting(view: View, links: Sequence[LinkStatus], width: int) -> list[Column]:
    """The columns that fit into a line; where not all do, the least of them goes first."""
    from rich.cells import cell_len

    columns = [*_columns(view), *(_BABEL if view.status.babeld else ())]
    widths = {
        column.head: min(
            max(cell_len(text) for text in (column.head, *map(_bounded, map(column.cell, links)))),
            column.most or _MOST_OF_A_TEXT,
        )
        for column in columns
    }
    for least in _SPARE:
        if sum(widths[column.head] + 2 for column in columns) - 2 <= width:
            break
        columns = [column for column in columns if column.head != least]
    return columns


def _bounded(text: str) -> str:
    """A text that a terminal may get. A registry's author chooses the names."""
    return bounded(text, _MOST_OF_A_TEXT)


def _problems(view: View) -> Iterator[str]:
    """Lines about what could not be looked at, and about what waits."""
    if view.problem:
        yield f"the links cannot be looked at now, so what is shown is old: {view.problem}"
    if view.status.problem:
        yield unknown(view.status)
    yield from view.status.waiting


def _watch(reader: StatusReader, every: float, *, as_json: bool) -> int:
    """Look again and again, until somebody ends it, which is no failure."""
    if not _SHORTEST <= every <= _LONGEST:
        limits = f"from {_SHORTEST:g} to {_LONGEST:g}"
        raise ConfigError(f"--watch takes a number of seconds {limits}, not {every:g}")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the cursor comes back
    with suppress(KeyboardInterrupt):
        view, at = View(reader.read(), {}), time.monotonic()
        with _screen(as_json=as_json) as show:
            while True:
                show(view)
                time.sleep(every)
                view, at = _next(reader, view, at)
    return DONE


def _next(reader: StatusReader, before: View, at: float) -> tuple[View, float]:
    """What is to be shown next, and when that was seen; ``at`` is when ``before`` was."""
    try:
        status = reader.read()
    except (RaitError, OSError) as error:
        return structs.replace(before, problem=str(error)), at
    now = time.monotonic()
    return View(status, rates(before.status, status, now - at)), now


@contextmanager
def _screen(*, as_json: bool) -> Iterator[Callable[[View], None]]:
    """Gives what shows one view after the other."""
    if as_json or not is_terminal():
        yield _print_object if as_json else _print_lines
        return
    from rich.live import Live

    console = _console()
    # Lines of --debug go above the table. What is drawn must not be redirected to itself.
    with Live(
        console=console, auto_refresh=False, redirect_stdout=False, vertical_overflow="crop"
    ) as live:
        yield lambda view: live.update(_drawn(view, console.width), refresh=True)


def _print_lines(view: View) -> None:
    warn(*_problems(view))
    if not view.problem:
        print_result(*status_lines(view), "")


def _print_object(view: View) -> None:
    """A line of JSON."""
    if view.problem:
        _print_lines(view)
    else:
        speeds = msgspec.to_builtins(view.rates)
        print_text(to_json(status_object(view.status) | {"rates": speeds}, indent=0))
