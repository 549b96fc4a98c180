"""What the command line takes: each command, its options, and the help that explains them.

This module needs nothing but argparse, so that ``rait COMMAND --help`` answers at once. A command's
``run`` is the name of a function, ``MODULE:FUNCTION`` in rait/commands, which is imported later. An
option is a function that adds it to a parser.
"""

from __future__ import annotations

from argparse import SUPPRESS, ArgumentTypeError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Option = Callable[[Any], object]
    # Name, other names, one line of help, what runs, the description, and the options.
    Row = tuple[str, tuple[str, ...], str, str | None, str, tuple[Option, ...]]


def _option(*names: str, **settings: Any) -> Option:
    """An option, or an argument, with settings of ``add_argument``."""
    return lambda to: to.add_argument(*names, **settings)


def _flag(what: str, *names: str) -> Option:
    """An option that takes no value."""
    return _option(*names, action="store_true", help=what)


def _either(*options: Option) -> Option:
    """Options of which only one may be given."""

    def add(to: Any) -> None:
        group = to.add_mutually_exclusive_group()
        for option in options:
            option(group)

    return add


def _whole_number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is not a whole number") from None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is not a number") from None


def _commands(title: str, *rows: Row, **settings: Any) -> Option:
    """Commands below a command."""
    return lambda to: add_commands(to.add_subparsers(title=title, **settings), *rows)


def add_commands(to: Any, *rows: Row) -> None:
    """Add commands; ``to`` is what ``add_subparsers`` gave in rait/cli.py."""
    for name, aliases, summary, run, description, options in rows:
        about = {"help": summary, "description": description}
        to.add_parser(name, aliases=aliases, run=run, options=options, **about)


_YES = _flag("go on however many links lose their sessions", "--yes")
_DRY_RUN = _flag("only show what would be done", "--dry-run")
_ASSUME_GONE = _flag(
    "treat links as removed if their network namespace cannot be found", "--assume-gone"
)
_ACCEPT_OLDER = _flag(
    "accept a signed peers list although it is older than the last one", "--accept-older"
)
_DETAILED = _flag(
    "for a plan or a dry run: exit status 0 if there is nothing to do, "
    "2 if there are changes, and 1 for any error (wrong usage or configuration too) or a link "
    "that cannot be made",
    "--detailed-exitcode",
)
_SPAN = _option(
    "--confirm",
    metavar="SPAN",
    help="take the change back unless `rait confirm` comes within 30s, 2m, 1h",
)


_UP = """\
Make, change and remove links until they are as rait.conf and the peers list say. Only what
differs is written: links that are right already are left alone, with their sessions. A second
`rait up` writes nothing.

A link whose entry in the peers list cannot be read is left as it is, with exit status 3. A peer
whose port another peer has gets no link, with exit status 3, until the list is mended: who has a
link keeps it, whoever comes and wherever in the list. A list that asks for more links than
max_links in rait.conf changes nothing.

At the end, the up_command and down_command that policies in rait.conf have for the links are run.
One that fails undoes nothing, and makes the exit status 3. `rait plan` shows them before.

If the list cannot be read from its URL, nothing is touched, unless rait.conf says how old the last
good list may be that stands in for it, as peers_fallback = "24h". Then links are made by that list
and none is removed, with exit status 3. With peers_public_key in rait.conf, so it is with a list
that is not signed, or older than the last one, which --accept-older takes (docs/registry.md).

A run stops with exit status 4 if it would end the sessions of more than half of at least four
links: a peers list that is empty, cut short or exchanged, or a wrong namespace, must not take the
node off the mesh. A link loses its session if it is removed or made again, or if it gets another
peer. All links lose theirs if this node gets a new private key, as no peer knows its public key
until the registry has it. Sessions that runs of the last 24 hours ended count too. --yes lets the
run go on; max_removals in rait.conf sets another limit.

With --confirm, a change is taken back by itself unless `rait confirm` comes within the span (3s to
1d): so a change made over one of these very links cannot lock its maker out. Meanwhile nothing else
is changed. The next `rait up` does not do again what was taken back, and ends with exit status 3;
--yes has it do so.

  rait up --confirm 2m
"""

_UP_OPTIONS = (_DRY_RUN, _YES, _ASSUME_GONE, _DETAILED, _ACCEPT_OLDER, _SPAN)


_DOWN = """\
Remove our links: the WireGuard interfaces of our ifgroup in the target namespace. Nothing else is
touched.
"""


_WATCH = """\
Look after this node, in the foreground, until SIGTERM or Ctrl-C: sync at the start as `rait up`
does, and again when

  - rait.conf, a peers list in a file or a key file changes,
  - a peers list from a URL changes: it is asked for every 60 s,
  - a host name has another address: names are looked up every 60 s, and sooner when a peer does
    not answer,
  - somebody deletes or changes one of our links,
  - SIGHUP comes: then everything is read anew,
  - nothing of this came for 60 s, as nobody tells of some changes.

The watch block of rait.conf has other intervals, and the address at which to serve metrics and a
health page (docs/watch.md). Each sync is a run of its own in the journal, with its cause; one that
has nothing to do writes nothing. What a sync did, and what is wrong, goes to standard error; what
stays wrong is told again at growing intervals.

If rait.conf becomes wrong, or the server of the peers list fails, the links stay as they are until
that is mended. A sync that would end too many sessions is stopped as `rait up` is: go on with
`rait up --yes`. While a change waits for `rait confirm`, nothing else is changed.

At the end the links stay, unless --down-on-exit is given. A sync that runs ends first.

  systemctl reload rait-watch     sync now (as kill -HUP does)
  rait log --since 1d             what was done, and why
"""

_DOWN_ON_EXIT = _flag("remove the links at the end, as `rait down`", "--down-on-exit")


_LIST = """\
Show our links as they are now: this node's addresses on each, and the peer's endpoint, last
handshake and traffic. `rait status` says whether they are live, which are missing, and why.
"""


_STATUS = """\
Show how our links are: on top how many are live, how old the peers list is if it comes from a URL,
and the last change that the journal has. Then each link: its peer, by name and the beginning of the
public key, its state, endpoint, last handshake and traffic, and what babeld says of the neighbour,
if babeld answers. Above all that, on standard error, is a change that waits for `rait confirm`, and
the last `rait up` if it failed or the guard stopped it.

  live      the last handshake was in the last three minutes, so the link carries traffic
  stale     there was a handshake, and it is longer ago
  never     there was no handshake yet
  missing   rait made the link, or was to make it, and it is not there
  failed    the last run could not make the link, or it cannot be read or used

HOW an endpoint came: it is the configured one, or the peer roamed to it, or rait is waiting until
the peer calls, as the list has no address for it.

--check is for a monitor: the exit status is 1 if a link that should be live is not, with a line for
each, or if the peers list is older than max_peers_age in rait.conf. A peer without an address that
never called is no fault. WireGuard makes a handshake only for traffic, so --check needs a keepalive
on each link, or a routing daemon that sends hellos over it; else an idle link is stale.

  rait status --watch          look every two seconds, with the rates of traffic; Ctrl-C ends it
  rait status --check || mail -s "rait on $(hostname)" root
"""

_STATUS_HOW = _either(
    _option(
        "--watch",
        metavar="SECONDS",
        type=_number,
        nargs="?",
        const=2.0,
        help="look again and again, every so many seconds (default: 2)",
    ),
    _flag("exit with 1 if a link that should be live is not", "--check"),
)


_METRICS = """\
Print metrics of our links in Prometheus's text format: what `rait status` shows, as numbers. With
--output, write them to a file that Prometheus's node_exporter reads, whole or not at all and with
mode 0644, as from a timer. `rait watch` serves the same at `metrics` in rait.conf, and more: how
its syncs went. docs/watch.md says what each metric means.

What cannot be looked at is left out, never zero: then rait_up is 0, and the exit status is 1, or 2
where rait.conf is wrong.

  rait metrics --output /var/lib/prometheus/node-exporter/rait.prom
"""

_OUTPUT = _option(
    "--output", metavar="FILE", default="-", help="write to this file (default: -, stdout)"
)


_PLAN = """\
Show what `rait up` would do, and write nothing anywhere. With --against, plan for the node that
`rait export-state` was run on, without root and without WireGuard: so the CI of a registry can
show what a change does to each node.
"""

_EXPORT = "Print this node's state as JSON for `rait plan --against`. It holds no private key."

_PLAN_OPTIONS = (
    _ACCEPT_OLDER,
    _ASSUME_GONE,
    _DETAILED,
    _option("--against", metavar="STATE.json", help="plan for the node of this state"),
)


_EXPLAIN = """\
Say why a link is as it is, or why a peer has none: what the peers list says of the peer; for each
setting of the link the value that is wanted, the line of rait.conf or of the peers list that gives
it, the value last applied and the one that the machine has (= where it is the wanted one); what is
wrong; and what `rait up` would do. Nothing is written anywhere.

WHAT is the name of a link, the name of a peer, or its public key or the beginning of it.

  rait explain rait450001
  rait explain berlin
"""

_WHAT = _option("what", metavar="WHAT", help="a link, or a peer by name or public key")


_LOG = """\
Show the runs that changed something, and what each did, newest last. `rait log show RUN` shows one
run whole, `rait log verify` examines the hash chain, `rait log prune` drops what is old.
"""

_LOG_SHOW = "Show one run whole, of whichever configuration it is, with the number of each event."

_LOG_VERIFY = """\
Examine every row of the journal: each entry's hash covers the entry before it. The exit status is
1 if anything was changed, removed, reordered or cut off. Whoever may write the file can also
compute all hashes anew. To notice that, keep the head that this command prints on another machine,
and give it to --expect-head later.

  rait log verify --expect-head ba82272382473d0d9605cf976c4f25f019be5bbac6b72c4d64fd02ecdbf6c6d9
"""

_LOG_PRUNE = """\
Drop the runs that ended longer ago than --keep says, and keep a snapshot from which replay starts.
A journal in which `rait log verify` finds a fault is left as it is.

  rait log prune --keep 90d
"""

_JOURNAL = "use this journal, and read no configuration"
_SAME_JOURNAL = _option("--journal", metavar="PATH", default=SUPPRESS, help=_JOURNAL)
_RUN = _option("number", metavar="RUN", type=_whole_number, help="the run's number")
_HEAD = _option("--expect-head", metavar="HASH", help="a head that was kept: 64 hex digits")
_KEEP = _option("--keep", metavar="SPAN", required=True, help="what to keep: 30m, 12h, 90d, 2w")

_LOG_OPTIONS = (
    _option("--journal", metavar="PATH", help=_JOURNAL),
    _flag("the runs of all configurations that share the journal", "--all"),
    _option("--since", metavar="WHEN", help="runs since: 2h (ago), 2026-01-31T17:05"),
    _option("--link", metavar="NAME", help="runs and events of this link"),
    _option("--peer", metavar="KEY", help="runs and events of this public key"),
    _option("--run", metavar="RUN", type=_whole_number, dest="number", help="this run alone"),
    _flag("wait for new runs, and show them too", "-f", "--follow"),
    _flag("a line for each run", "--oneline"),
    _commands(
        "of the journal",
        ("show", (), "show one run whole", "log:run_show", _LOG_SHOW, (_RUN, _SAME_JOURNAL)),
        (
            "verify",
            (),
            "examine the hash chain",
            "log:run_verify",
            _LOG_VERIFY,
            (_HEAD, _SAME_JOURNAL),
        ),
        ("prune", (), "drop old runs", "log:run_prune", _LOG_PRUNE, (_KEEP, _SAME_JOURNAL)),
        metavar="[show|verify|prune]",
    ),
)


_REPLAY = """\
Print the links as the journal has them after a run, after an event or at a time. --diff shows how
the live system differs from it, and --apply makes the links what they were, with today's private
key from rait.conf.

As `rait up` does, --apply stops with exit status 4 if it would end the sessions of more than half
of at least four links; --yes lets it go on. It refuses a time before the journal began.

  rait replay --at 10                            the links after run 10
  rait replay --at event:11 --diff               after event 11, which `rait log show` numbers
  rait replay --at 2h                            two hours ago
  rait replay --at "2026-01-31 17:05" --apply    at a time, local unless it ends in Z or +01:00
"""

_REPLAY_OPTIONS = (
    _option("--at", metavar="WHEN", help="a run's number, event:NUMBER, or a time (default: now)"),
    _either(
        _flag("show how the live system differs", "--diff"),
        _flag("make the links what they were", "--apply"),
    ),
    _YES,
    _SPAN,
)


_ROLLBACK = """\
Take one run back, by default the last that changed something. If later runs touched the same
links, nothing is done without --force. The peers list is not changed: the next `rait up` makes the
links again what that list says.

As `rait up` does, the rollback stops with exit status 4 if it would end the sessions of more than
half of at least four links; --yes lets it go on.
"""

_ROLLBACK_OPTIONS = (
    _option(
        "number",
        metavar="RUN",
        type=_whole_number,
        nargs="?",
        help="the run's number (default: the last)",
    ),
    _flag("go on if later runs touched its links", "--force"),
    _DRY_RUN,
    _YES,
    _SPAN,
)


_CONFIRM = """\
Keep a change that was made with --confirm: `rait up --confirm 2m` makes a change and takes it back
by itself after two minutes, unless this command comes before. With --back, the change is taken back
at once. The exit status is 0 if this command did it, and 1 if the time was over.

  rait up --confirm 2m     make a change; is everything still in reach?
  rait confirm             then keep it
  rait confirm --back      or do not
"""

_CONFIRM_OPTIONS = (_flag("take the change back at once", "--back"), _flag(SUPPRESS, "--wait"))


_BABELD = "Talk to babeld over its control socket, which rait.conf names in its babeld block."

_BABELD_LIST = "Show the interfaces that babeld has, and which of them are ours."

_BABELD_SYNC = """\
Make our interfaces in babeld equal to our live links: add those that are missing, flush those whose
link is gone, and after a change send extra_cmd. Interfaces that are not ours are left alone. With
sync = true in the babeld block, `rait up` and `rait down` do this by themselves.
"""

_EXCLUSIVE = _flag("flush interfaces of others too", "--exclusive")
_BABELD_COMMANDS = _commands(
    "of babeld",
    ("list", ("l",), "the interfaces that babeld has", "babeld:run_list", _BABELD_LIST, ()),
    (
        "sync",
        ("s",),
        "make ours equal to our links",
        "babeld:run_sync",
        _BABELD_SYNC,
        (_EXCLUSIVE,),
    ),
    metavar="{list,sync}",
    required=True,
)


_CHECK = """\
Say whether peers lists are right, before any node reads them: without root, without a rait.conf and
without WireGuard. Each finding has its file and line, the entry, what is wrong and what to do.

Errors are what `rait up` skips on some node: an entry that it cannot use, or a SendPort that is
given twice. Warnings are what `rait up` takes, although it is most likely wrong; --strict makes
them errors. Notes may be right. The exit status is 1 if there is an error, also where a list cannot
be read, and else 0. docs/registry.md explains each rule.

--verify wants each list to be signed, in PEERS.minisig beside it, by one of these keys of minisign:
the line of base64, or the path of its file.

As each node reads one list, each list is checked by itself. --together takes all of them for parts
of one registry, as where each node has a file of its own.

  rait check peers.toml
  rait check --together nodes/*.hcl
  curl -s https://example.org/peers.toml | rait check -
  rait check --format github --strict peers.toml       annotate a pull request
  rait check --verify minisign.pub peers.toml
  rait check etcd://registry.example.org:2379/rait/peers
"""

_PEERS = _option(
    "peers", metavar="PEERS", nargs="+", help="a peers list: a path, - for stdin, or a URL"
)
_VERIFY = _option(
    "--verify", metavar="KEY", action="append", default=[], help="a key that may sign"
)

_CHECK_OPTIONS = (
    _PEERS,
    _flag("the lists are one registry's parts", "--together"),
    _flag("make warnings errors", "--strict"),
    _VERIFY,
    _flag("look up each host name, from here", "--dns"),
    _option(
        "--format",
        choices=("text", "json", "github", "sarif"),
        default="text",
        help="text; json, as --json; github: workflow commands; sarif: SARIF 2.1.0",
    ),
)


_FLEET = "See what a change of the registry does to all nodes, before anyone runs anything."

_FLEET_PLAN = """\
Say what the step from one version of a registry to another does: to each node, by the same plan as
its own next `rait up`; and to the tunnel of each pair of nodes. Nodes sync at different times, so
each pair is looked at with the old and the new version at either end. A pair is interrupted if it
carries traffic before and after, and not in between, or no longer. Then an order of nodes that
interrupts nobody is named, if there is one.

Nothing but the two lists is needed: no root, no rait.conf, no tunnels. What a node's rait.conf has,
its entry implies: one transport for each address family. --nodes DIR has the nodes' own rait.conf
in files NAME.conf, without private keys. Where these change along with the list, --nodes is given
twice: first with those that go with OLD, then with those that go with NEW.

With --verify, both lists have to be signed by one of these keys of minisign, and NEW must not be
the older one, as nodes would refuse it. Else the peers_public_key in the nodes' rait.conf counts.

The exit status is 5 if a pair is interrupted, and 0 if none is. docs/fleet.md explains the words.

  git show main:peers.toml | rait fleet plan - peers.toml
  rait fleet plan --node berlin old.toml new.toml
  rait fleet plan etcd://registry.example.org:2379/rait/peers new.toml
"""

_FLEET_PLAN_OPTIONS = (
    _option("old", metavar="OLD", help="the list as it is: a path, - or a URL"),
    _option("new", metavar="NEW", help="the list as it shall be"),
    _option(
        "--nodes",
        metavar="DIR",
        action="append",
        default=[],
        help="the nodes' own rait.conf, as NAME.conf",
    ),
    _VERIFY,
    _either(
        _option("--node", metavar="NAME", help="one node whole, by its name or public key"),
        _flag("for a comment on a pull request", "--markdown"),
    ),
)
_FLEET_COMMANDS = _commands(
    "of a fleet",
    ("plan", (), "what a change does to everyone", "fleet:run", _FLEET_PLAN, _FLEET_PLAN_OPTIONS),
    metavar="plan",
    required=True,
)


_PORT = """\
Print a SendPort that no node of a peers list has, for a new one. Every other node listens on it, so
it must be one node's alone, in both address families. With the node's public key the answer is
always the same, as long as the list is: the digest of the key says where the search begins, and
ports that are taken are passed over. Without a key the search begins anywhere: two people who add
a node at one time would else both get the lowest one.

The port is from 10000 to 32767 unless --range says otherwise. Lower ones are for services, as 6696
for babeld. From 32768 on the kernel gives ports to programs: such a one may be taken on some node
when its link is made.

  rait port --key "$(rait pubkey < key)" peers.toml
  rait port --key "$(rait pubkey < key)" --family ip6 peers.toml
"""

_PORT_OPTIONS = (
    _PEERS,
    _option("--key", metavar="KEY", help="the public key of the new node"),
    _option(
        "--family",
        choices=("ip4", "ip6"),
        default="ip4",
        help="ip6: another port than for ip4 (the default), as the two of a node must differ",
    ),
    _option("--range", metavar="LOW-HIGH", help="the ports to take one of"),
)


_PUB = """\
Print this node's own entry for the peers list, as rait.conf has it: the public key, the name, an
endpoint for each transport, and the remarks. With a DEST, write it to that file, with mode 0644 and
in the format that its name tells; a file that holds anything else is left as it is. In what is
printed, `rait check` finds no error; if it would, nothing is printed, with exit status 2.

With --to, put it into a registry in etcd, under PREFIX/PUBLIC-KEY: the one that rait.conf names as
peers, or that of the URL. What stands there already is not written again. --lease has etcd drop the
entry unless this command, or a `rait watch` with publish = true in rait.conf, comes again within
the span (5s to 1d); that of rait.conf is the default, and without either the entry stays until
--withdraw, for a node that leaves for good. The exit status is 1 if etcd does not take it.
docs/etcd.md sets up a registry in which each node may write its own entry alone.

  rait pub >> peers.hcl
  rait pub nodes/gate.toml
  rait pub --to
  rait pub --to etcd://192.0.2.1:2379,192.0.2.2:2379/rait/peers --lease 60s
  rait pub --to --withdraw
"""

_PUB_OPTIONS = (
    _option("dest", metavar="DEST", nargs="?", default="-", help="a path, or - (stdout)"),
    _option(
        "--to", metavar="URL", nargs="?", const="", help="a registry (default: peers of rait.conf)"
    ),
    _option("--lease", metavar="SPAN", help="drop it unless this comes again: 60s"),
    _flag("remove this node's entry from the registry", "--withdraw"),
    _option(
        "--format",
        choices=("hcl", "toml", "json"),
        help="hcl and json: nested; toml: flat, as [[Peers]] (default: by DEST, else hcl)",
    ),
)


_REMARKS = """\
Print one of the remarks in rait.conf: text as it is, all else as JSON. KEY may be a path with dots,
in which lists take numbers from 0.

  rait remarks location.city
"""

_KEY = _option("key", metavar="KEY", help="the key of a remark, or a path with dots")


_GENKEY = """\
Print a new private key, as `wg genkey` does.

  (umask 077; rait genkey > key)
"""


_PUBKEY = """\
Read a private key from standard input and print its public key, as `wg pubkey` does.

  rait pubkey < key
"""


COMMANDS: tuple[Row, ...] = (
    ("up", ("u", "sync"), "make, change and remove links", "up:run", _UP, _UP_OPTIONS),
    ("down", ("d",), "remove our links", "down:run", _DOWN, (_ASSUME_GONE,)),
    ("watch", (), "keep the links in sync until stopped", "watch:run", _WATCH, (_DOWN_ON_EXIT,)),
    ("list", ("l",), "show our links, with their addresses", "list:run", _LIST, ()),
    ("status", (), "show and check how the links are", "status:run", _STATUS, (_STATUS_HOW,)),
    ("metrics", (), "print metrics of the links", "metrics:run", _METRICS, (_OUTPUT,)),
    ("plan", (), "show what `rait up` would do", "plan:run", _PLAN, _PLAN_OPTIONS),
    ("explain", (), "say why a link or peer is as it is", "explain:run", _EXPLAIN, (_WHAT,)),
    ("export-state", (), "print the state for `plan --against`", "plan:run_export", _EXPORT, ()),
    ("check", (), "say whether a peers list is right", "check:run", _CHECK, _CHECK_OPTIONS),
    (
        "fleet",
        (),
        "say what a change of the list does to all nodes",
        None,
        _FLEET,
        (_FLEET_COMMANDS,),
    ),
    ("port", (), "find a free SendPort for a new node", "port:run", _PORT, _PORT_OPTIONS),
    ("pub", ("p",), "print this node's entry for the peers list", "pub:run", _PUB, _PUB_OPTIONS),
    ("remarks", ("r",), "print a remark of rait.conf", "pub:run_remarks", _REMARKS, (_KEY,)),
    ("genkey", (), "print a new private key", "keys:run_genkey", _GENKEY, ()),
    ("pubkey", (), "print the public key of a private one", "keys:run_pubkey", _PUBKEY, ()),
    ("log", (), "show, verify and prune the journal", "log:run", _LOG, _LOG_OPTIONS),
    ("replay", (), "show or restore earlier links", "replay:run", _REPLAY, _REPLAY_OPTIONS),
    ("rollback", (), "take one run back", "rollback:run", _ROLLBACK, _ROLLBACK_OPTIONS),
    ("confirm", (), "keep a change made with --confirm", "confirm:run", _CONFIRM, _CONFIRM_OPTIONS),
    ("babeld", (), "show and sync babeld's interfaces", None, _BABELD, (_BABELD_COMMANDS,)),
)
