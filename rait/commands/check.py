"""``rait check``: whether a registry is right, without a node."""

from __future__ import annotations

import re
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from msgspec import Struct, structs

from rait import __version__
from rait.adapters.config import formats
from rait.adapters.config.document import Document, Place
from rait.adapters.config.source import Texts, display_name, is_remote, read_signature
from rait.adapters.keys import private_keys_of
from rait.app.options import Options
from rait.domain.check import RULES, Examined, Finding, Severity, examine, unresolved
from rait.domain.config.keytext import without_keys_but
from rait.domain.config.schema import is_live
from rait.domain.errors import FEW, Path, SourceError, counted
from rait.domain.signed import UNORDERED
from rait.terminal import DONE, FAILED, print_json, print_result, warn

if TYPE_CHECKING:
    from rait.app.signed import Trust

DNS_SECONDS = 60.0
"""For all names together; nobody waits for a check as a start of a machine waits for `rait up`."""

MOST_TOLD = 10_000
"""Findings of a list that are told, errors first; all are counted. A list may have a million."""

_SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")


class Told(Struct, frozen=True):
    """A finding with its place in a file; ``line`` is None if it is about the file as a whole.

    Of a list in etcd, ``file`` is its URL with the key of etcd.
    """

    file: str
    line: int | None
    severity: Severity
    rule: str
    entry: str
    peer: str
    message: str
    advice: str


class Result(Struct, frozen=True):
    """What a check came to: the number of nodes, that of findings by severity, and the findings."""

    nodes: int
    counts: Mapping[Severity, int]
    told: list[Told]

    def summary(self) -> str:
        """In one line."""
        found = [counted(n, severity) for severity in _SEVERITIES if (n := self.counts[severity])]
        more = sum(self.counts.values()) - len(self.told)
        rest = f" ({more} of them are not shown)" if more else ""
        return f"{counted(self.nodes, 'node')}: {', '.join(found) or 'nothing is wrong'}{rest}"


def run(_: Options, arguments: Namespace) -> int:
    documents, texts, told = _read(arguments.peers, _signers(arguments.verify))
    parts = [documents] if arguments.together else [[document] for document in documents]
    nodes, peers = 0, dict[str, str]()
    counts: Counter[Severity] = Counter(item.severity for item in told)
    for part in parts:
        examined = examine(*(document.data for document in part))
        nodes += len({peer.public_key for peer in examined.peers})
        peers |= {peer.public_key: peer.name or peer.public_key for peer in examined.peers}
        found = [*examined.findings, *(_unresolved(examined, part) if arguments.dns else ())]
        counts += Counter(item.severity for item in found)
        if len(found) > MOST_TOLD:
            found = sorted(found, key=lambda item: _SEVERITIES.index(item.severity))[:MOST_TOLD]
        told += sorted((_told(f, part) for f in found), key=lambda t: (t.file, t.line or 0))
    if published := list(_published(texts, peers)):
        public = peers.keys() - {key for key, _ in published}
        told = [*(item for _, item in published), *_with_keys_of(public, told)]
        counts["error"] += len(published)
    if arguments.strict:
        counts["error"] += counts.pop("warning", 0)
        told = [
            structs.replace(t, severity="error") if t.severity == "warning" else t for t in told
        ]
    _PRINT["json" if arguments.json else arguments.format](Result(nodes, counts, told))
    return FAILED if counts["error"] else DONE


def _signers(keys: Sequence[str]) -> Trust | None:
    """The trust in the keys of --verify, None for none. Raises ConfigError."""
    if not keys:
        return None
    from rait.app.signed import trust_in  # here, as few lists are signed

    return trust_in(keys)


def _read(
    urls: Iterable[str], trust: Trust | None
) -> tuple[list[Document], dict[str, str], list[Told]]:
    """The documents, all texts by name, and a finding for each that cannot be read or parsed.

    With ``trust``, there is one for each that is not signed so, too.
    """
    documents, texts, told = [], {}, list[Told]()
    read = Texts().read
    for url in urls:
        name = display_name(url)
        try:
            texts[name] = read(url)
            told += () if trust is None else _unsigned(url, name, texts[name], trust)
            documents.append(formats.parse(texts[name], name))
        except SourceError as error:
            message = str(error).removeprefix(f"{name}:").lstrip()
            place = re.match(r"(\d+)(?::\d+)?: ", message)
            line = int(place[1]) if place else None
            told.append(_at("list", Place(name, line), message[place.end() if place else 0 :]))
    return documents, texts, told


def _unsigned(url: str, name: str, text: str, trust: Trust) -> Iterator[Told]:
    """A finding if a list is not signed as it has to be, or nobody can tell its age."""
    try:
        if not trust.check(url, text, read_signature(url)).kind:
            yield _at("signature", Place(name), UNORDERED, severity="warning")
    except SourceError as error:
        yield _at("signature", Place(name), str(error))


def _published(texts: Mapping[str, str], peers: Mapping[str, str]) -> Iterator[tuple[str, Told]]:
    """Each private key of a listed node that stands in a text, and the finding; never shows it.

    ``peers`` are the names of the nodes by their public key.
    """
    for name, text in texts.items():
        line, counted_to = 1, 0
        document = Document(name, {}, dict, text)
        for offset, key, owner in private_keys_of(peers, text):
            line += text.count("\n", counted_to, offset)
            counted_to = offset
            message = f"this is the private key of node {peers[owner]}"
            yield key, _at("private-key", document.at(line), message, peers[owner])


def _with_keys_of(public: Container[str], told: Iterable[Told]) -> Iterator[Told]:
    """The findings without any other keys, of which some stand in the places of public ones."""
    for item in told:
        peer, message = (without_keys_but(public, text) for text in (item.peer, item.message))
        yield structs.replace(item, peer=peer, message=message)


def _unresolved(examined: Examined, documents: list[Document]) -> Iterator[Finding]:
    """A finding for each host name that does not resolve here."""
    from rait.adapters.config.resolve import resolve
    from rait.adapters.netns import open_netns

    with open_netns("") as here:
        answer = resolve(examined.hosts, here, DNS_SECONDS, examined.hosts, documents[0].name)
    return map(unresolved, answer.problems)


def _told(finding: Finding, documents: list[Document]) -> Told:
    message = finding.message
    if finding.other:
        message += f", in {_place(finding.other, documents)}"
    return _at(finding.rule, _place(finding.path, documents), message, finding.peer)


def _place(path: Path, documents: list[Document]) -> Place:
    return documents[int(path[0])].place(path[1:])


def _at(
    rule: str, place: Place, message: str, peer: str = "", severity: Severity | None = None
) -> Told:
    """What there is to say by a rule, whose severity it has unless another one is given."""
    known = RULES[rule]
    severity = severity or known.severity
    return Told(place.file, place.line, severity, rule, place.entry, peer, message, known.advice)


def _print_text(result: Result) -> None:
    notes: Counter[tuple[str, str]] = Counter()
    lines = []
    for item in result.told:
        notes[item.file, item.rule] += item.severity == "note"
        if notes[item.file, item.rule] <= FEW:
            lines.append(_line(item))
    more = ((file, rule, n - FEW) for (file, rule), n in notes.items() if n > FEW)
    lines += (
        f"{file}: {counted(n, 'more note')} of {rule}; --json has them" for file, rule, n in more
    )
    print_result(*lines, result.summary())


def _line(item: Told) -> str:
    return f"{_where(item)}: {item.severity}: {_text(item)} [{item.rule}]"


def _where(item: Told) -> str:
    return str(Place(item.file, item.line))


def _text(item: Told) -> str:
    entry = f"{item.entry} ({item.peer})" if item.peer and item.entry else item.entry
    return f"{entry}: {item.message}; {item.advice}" if entry else f"{item.message}; {item.advice}"


def _print_json(result: Result) -> None:
    counts = {f"{severity}s": result.counts[severity] for severity in _SEVERITIES}
    print_json({"nodes": result.nodes, **counts, "findings": result.told})


_COMMANDS = {"error": "error", "warning": "warning", "note": "notice"}


def _print_github(result: Result) -> None:
    """Workflow commands; in each, only its own line feed ends it, whatever a registry says."""
    if result.told:
        print_result(*map(_command, result.told))
    warn(result.summary())


def _command(item: Told) -> str:
    places = {"file": item.file, "line": item.line, "title": f"rait: {RULES[item.rule].title}"}
    text = _text(item)
    if is_remote(item.file):
        # What is no file of the repository cannot be annotated, so the message has the place.
        del places["file"], places["line"]
        text = f"{_where(item)}: {text}"
    properties = ",".join(f"{k}={_property(str(v))}" for k, v in places.items() if v is not None)
    return f"::{_COMMANDS[item.severity]} {properties}::{_data(text)}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def _print_sarif(result: Result) -> None:
    """SARIF 2.1.0 (OASIS), as far as a reader needs it to show findings beside the code."""
    numbers = {rule: number for number, rule in enumerate(RULES)}
    driver = {
        "name": "rait",
        "version": __version__,
        "rules": [
            {
                "id": name,
                "shortDescription": {"text": f"{rule.title}."},
                "help": {"text": f"{rule.advice[:1].upper()}{rule.advice[1:]}."},
                "defaultConfiguration": {"level": rule.severity},
            }
            for name, rule in RULES.items()
        ],
    }
    results = [
        {
            "ruleId": item.rule,
            "ruleIndex": numbers[item.rule],
            "level": item.severity,
            "message": {"text": _text(item)},
            "locations": [_location(item)],
        }
        for item in result.told
    ]
    print_json(
        {
            "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
            "version": "2.1.0",
            "runs": [{"tool": {"driver": driver}, "results": results}],
        }
    )


def _location(item: Told) -> dict[str, object]:
    from urllib.parse import quote

    if is_live(item.file):
        # It is in no artifact, and a URL of several hosts is no URI (RFC 3986).
        return {"logicalLocations": [{"fullyQualifiedName": item.file, "kind": "resource"}]}
    place: dict[str, object] = {"artifactLocation": {"uri": quote(item.file, safe="/:?=&")}}
    region = {} if item.line is None else {"region": {"startLine": item.line}}
    return {"physicalLocation": place | region}


_PRINT: Mapping[str, Callable[[Result], None]] = {
    "text": _print_text,
    "json": _print_json,
    "github": _print_github,
    "sarif": _print_sarif,
}
