"""Load the inputs of a run: configuration, private key and peers.

Paths in the configuration (``peers``, ``private_key_file``, ``journal``) are relative to the
directory of the configuration file, or to the working directory where it is no file.
"""

from __future__ import annotations

import os
from binascii import a2b_base64
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from typing import TYPE_CHECKING

from msgspec import Struct, structs

from rait.adapters import keys
from rait.adapters.config import caches, source
from rait.adapters.config.bounds import MAX_CONFIG_BYTES, MAX_KEY_BYTES
from rait.adapters.config.caches import KnownConfig, KnownPeers
from rait.adapters.config.document import Document
from rait.adapters.config.source import Read
from rait.adapters.keys import KeyPair
from rait.domain.config.keytext import canonical_key
from rait.domain.config.schema import Config, Peer, Policy, Psks, Secret
from rait.domain.digests import fast_sha256
from rait.domain.errors import ConfigError, Path, Problem, SourceError
from rait.domain.plan import NO_KEY_FILES, KeyFiles, count_wanted
from rait.domain.signed import UNORDERED, which_list

if TYPE_CHECKING:
    from rait.app.signed import Trust
    from rait.domain.change import Doubt
    from rait.domain.config.hosts import Addresses
    from rait.domain.fallback import OldList
    from rait.domain.signed import Signed

_CLOSE_IT = "others on this machine can read this private key: run `chmod 600` on the file"
_CLOSE_LOGIN = "others on this machine can read this password: run `chmod 600` on the file"
_COMMANDS = "its up_command and down_command run with all rights of rait, and"
_OWN_IT = "others on this machine can write the file: run `chown root` and `chmod go-w` on it"
_PLAIN_HTTP = "comes over plain http: anyone on the way can read and change it; use https or a file"


class Loaded(Struct, frozen=True, kw_only=True):
    """A configuration and where it is from.

    ``digest`` gives the SHA-256 of its text in hex, ``document`` what was parsed of it, and
    ``warnings`` are lines for the user. ``distrust`` says why its commands must not be run, "" if
    they may be.
    """

    config: Config
    source: str
    digest: Callable[[], str]
    warnings: tuple[str, ...] = ()
    document: Callable[[], Document] = lambda: Document("rait.conf", {}, dict)
    distrust: str = ""

    def place_of(self, key: str) -> str:
        """The place in it that sets this, for messages; where nothing does, a text that says so."""
        from rait.domain.config.decoding import key_id

        document = self.document()
        spelt = next((each for each in document.data if key_id(str(each)) == key_id(key)), None)
        if spelt is None:
            return f"{document.name}: {key} is not set, so it is the default"
        return document.location((spelt,))


class LoadedPeers(Struct, frozen=True, kw_only=True):
    """The peers, and the document that they are from.

    ``digest`` gives the SHA-256 of its text in hex, ``warnings`` are lines for the user, and
    ``doubts`` are the entries that could not be read. ``old`` is None, unless an old list stands in
    for the newest. ``keep`` keeps a list from the network for later runs, and may raise OSError; it
    is for the holder of the lock. ``signed`` says who signed it, None where it need not be signed.
    ``revision`` is that of etcd, 0 for other sources. ``addresses`` are those of host names, once
    they were looked up; ``unresolved`` are warnings about names without one, and ``has_names`` says
    whether the list has any.
    """

    peers: tuple[Peer, ...]
    digest: Callable[[], str]
    warnings: tuple[str, ...]
    document: Document
    doubts: tuple[Doubt, ...] = ()
    old: OldList | None = None
    keep: Callable[[], None] = lambda: None
    signed: Signed | None = None
    revision: int = 0
    addresses: Addresses = {}
    unresolved: tuple[Problem, ...] = ()
    has_names: bool = False

    @property
    def which(self) -> str:
        """Which list this is, in words."""
        return which_list(self.document.name, self.revision, self.signed)


class PublishedKeyError(SourceError):
    """The peers list holds this node's own private key."""


class Preshared(Struct, frozen=True):
    """What the files with preshared keys gave; ``warnings`` are lines for the user.

    ``paths`` are the files of all peers, also those that could not be read.
    """

    files: KeyFiles = NO_KEY_FILES
    psks: Psks = {}
    warnings: tuple[str, ...] = ()
    paths: frozenset[str] = frozenset()


def configured(url: str, *, key_required: bool = True, read: Read = source.read) -> Loaded:
    """Load our own configuration. Raises ConfigError, whatever is wrong with it."""
    try:
        return load_config(url, key_required=key_required, read=read)
    except SourceError as error:
        if source.is_path(url) and not os.path.lexists(url):
            why = f"{error}: write it, or name another one with -c or RAIT_CONFIG"
            raise ConfigError(why) from None
        raise ConfigError(*error.args) from None


def load_config(url: str, *, key_required: bool = True, read: Read = source.read) -> Loaded:
    """Read, parse, decode and check the configuration.

    Unless ``key_required``, it may lack a private key. Raises SourceError if the configuration
    cannot be read or parsed, and ConfigError, with a line for each problem, if it is wrong. No
    error shows a key.
    """
    source.refuse_registry(url)
    text = read(url, limit=MAX_CONFIG_BYTES)
    name = source.display_name(url)
    known = caches.find_config(text, url)
    if known is None:
        known = _checked(text, url, key_required=key_required)
        caches.keep_config(text, url, known)
    config = known.config
    config = structs.replace(
        config,
        peers=source.beside(config.peers, url),
        journal=source.beside(config.journal, url),
        private_key_file=config.private_key_file and source.beside(config.private_key_file, url),
        policies=tuple(_beside(policy, url) for policy in config.policies),
        peers_public_key=tuple(_key_beside(key, url) for key in config.peers_public_key),
    )
    document = cache(lambda: _parse(text, name))
    distrust = _distrust(config, url) if key_required else ""  # else it is for another machine
    return Loaded(
        config=config,
        source=name,
        digest=lambda: _digest(text),
        warnings=(*known.warnings, *_exposed(config, url), *filter(None, (distrust,))),
        document=document,
        distrust=distrust,
    )


def _distrust(config: Config, url: str) -> str:
    """Why the commands of the configuration, if it has any, may be somebody else's; "" if not."""
    if any(policy.up_command or policy.down_command for policy in config.policies):
        why = f"it {_PLAIN_HTTP}" if source.is_plain(url) else _OWN_IT
        if source.is_plain(url) or source.writable_by_others(url):
            return f"{source.display_name(url)}: {_COMMANDS} {why}"
    return ""


def _beside(policy: Policy, url: str) -> Policy:
    file = policy.preshared_key_file
    return structs.replace(policy, preshared_key_file=file and source.beside(file, url))


def _key_beside(key: str, url: str) -> str:
    from rait.domain.minisign import looks_like_key  # here, as few lists are signed

    return key if looks_like_key(key) else source.beside(key, url)


def _exposed(config: Config, url: str) -> Iterator[str]:
    """Warnings about secrets and settings that others can read, or change on their way."""
    if source.is_plain(url):
        yield f"{source.display_name(url)}: the configuration {_PLAIN_HTTP}"
    key_file = config.private_key_file
    if key_file is not None and source.is_plain(key_file):
        yield f"{source.display_name(key_file)}: the private key {_PLAIN_HTTP}"
    has_key = url if config.private_key is not None else key_file
    if has_key is not None and source.readable_by_others(has_key):
        yield f"{source.display_name(has_key)}: {_CLOSE_IT}"
    if source.is_live(config.peers):
        yield from _exposed_by_registry(config.peers)


def _exposed_by_registry(url: str) -> Iterator[str]:
    from rait.adapters.config.etcd.target import parse

    name = source.display_name(url)
    try:
        target = parse(url, name)
    except SourceError:
        return  # which who reads the list will tell
    if target.user and source.is_plain(url):
        yield f"{name}: the password goes over plain http: anyone on the way can read it; use etcds"
    if source.readable_by_others(target.password_file):
        yield f"{target.password_file}: {_CLOSE_LOGIN}"
    if source.readable_by_others(target.key):
        yield f"{target.key}: {_CLOSE_IT}"


def _checked(text: str, url: str, *, key_required: bool) -> KnownConfig:
    """Decode and check a configuration; its paths stay as they are spelt."""
    from rait.domain.config.decode_config import decode_config

    document = _parse(text, source.display_name(url))
    config, problems = decode_config(document.data, key_required=key_required)
    if config is None:
        raise ConfigError(*_error_lines(problems, document))
    for key, value in (("peers", config.peers), ("private_key_file", config.private_key_file)):
        if url == value == source.STDIN:
            message = "cannot be - (standard input): the configuration itself came from there"
            raise ConfigError(document.describe(Problem(message, "error", (key,))))
    return KnownConfig(config, document.describe_all(problems))


def _parse(text: str, name: str) -> Document:
    # Imported here: texts that are known from the last time need no parser.
    from rait.adapters.config import formats

    return formats.parse(text, name)


def load_registry(
    loaded: Loaded, key: KeyPair, *, read: Read = source.read, trust: Trust | None = None
) -> LoadedPeers:
    """Load the peers list of the node with this key, whose private half may be unknown.

    ``trust`` is as in ``load_peers``. Raises SourceError if the list as a whole cannot be read, and
    if it must not be used: it is not signed as it has to be, holds this node's private key, has no
    usable entry of another node, or asks for more links than the configuration allows. No message
    shows the private key.
    """
    peers = load_peers(loaded, read=read, secret=key.secret, trust=trust)
    others = any(peer.public_key != key.public for peer in peers.peers)
    if peers.doubts and not others:
        first = peers.document.describe(peers.doubts[0].problem)
        raise SourceError(
            f"{first.removesuffix('; skipped')}; and besides this node's own, no other entry of "
            "the list can be used, so nothing is done; `rait check` says more of the list"
        )
    wanted = count_wanted(loaded.config, key.public, peers.peers)
    if wanted > loaded.config.max_links:
        raise SourceError(
            f"{peers.document.name}: the list asks for {wanted} links, but max_links is "
            f"{loaded.config.max_links}, so nothing is done. If the list is right, raise max_links "
            "in rait.conf"
        )
    if key.secret is None:
        # Last, as it takes a moment for each peer, and by now there are no more than max_links.
        _refuse_pair_of(key.public, peers)
    return peers


def load_peers(
    loaded: Loaded,
    *,
    read: Read = source.read,
    secret: Secret | None = None,
    trust: Trust | None = None,
) -> LoadedPeers:
    """Read, parse and decode the peers list that the configuration names.

    Entries that are wrong are left out, with a warning each. A list that has to be signed is
    verified, with the ``trust`` that rait.conf has if none is given. Raises SourceError where the
    list as a whole cannot be read, holds the private key ``secret``, or is not signed so.
    """
    url = loaded.config.peers
    name = source.display_name(url)
    signed: Signed | None = None
    try:
        text = read(url)
        if secret is not None:
            _refuse_text_with(secret, text, name)
        if loaded.config.peers_public_key:
            signed = _signed(loaded.config, text, read, trust)
    except PublishedKeyError:
        raise
    except SourceError as error:
        raise SourceError(f"{loaded.place_of('peers')}: {error}") from None
    known = caches.find_peers(text, name)
    if known is not None:
        peers, problems = known.peers, known.problems
        document = Document(name, {}, lambda: _lines_of(known, text, name), text)
    else:
        document = _parse(text, name)
        peers, problems = _decoded(document)
    if secret is not None:
        _refuse_peer_with(secret.reveal(), peers, document)
    found = _list_of(text, document, peers, problems)
    if signed is not None:
        notes = () if signed.kind else (f"{name}: {UNORDERED}",)
        found = structs.replace(found, signed=signed, warnings=(*found.warnings, *notes))
    if known is None:
        # Now, so that the cache gets the line numbers found for the warnings.
        caches.keep_peers(text, name, peers, problems, document.known_lines)
    return found


def _signed(config: Config, text: str, read: Read, trust: Trust | None) -> Signed:
    from rait.app.signed import trust_in  # here, as few lists are signed

    trust = trust or trust_in(config.peers_public_key)
    return trust.check(config.peers, text, source.read_signature(config.peers, read))


def read_list(url: str, trusts: Iterable[Trust] = ()) -> LoadedPeers:
    """Read, parse and decode a peers list, without a node and without a cache.

    Raises SourceError where the list as a whole cannot be read, or is not signed as each of these
    wants it.
    """
    text, signed = source.read(url), None
    for trust in trusts:
        signed = trust.check(url, text, source.read_signature(url))
    document = _parse(text, source.display_name(url))
    return structs.replace(_list_of(text, document, *_decoded(document)), signed=signed)


def _list_of(
    text: str, document: Document, peers: tuple[Peer, ...], problems: tuple[Problem, ...]
) -> LoadedPeers:
    doubts: tuple[Doubt, ...] = ()
    if problems:
        from rait.domain.change import doubts_of

        doubts = doubts_of(problems)
    return LoadedPeers(
        peers=peers,
        digest=lambda: _digest(text),
        warnings=document.describe_all(problems),
        document=document,
        doubts=doubts,
    )


def _lines_of(known: KnownPeers, text: str, name: str) -> Mapping[Path, int]:
    """The lines of a known list; if they were not kept yet, they are for the next run."""
    lines = known.lines()
    if lines is None:
        lines = _parse(text, name).lines()
        caches.keep_peers(text, name, known.peers, known.problems, lines)
    return lines


def _decoded(document: Document) -> tuple[tuple[Peer, ...], tuple[Problem, ...]]:
    """The peers and the warnings about skipped entries. Raises SourceError for an unusable list."""
    from rait.domain.config.decode_peers import decode_peers

    peers, problems = decode_peers(document.data)
    error = next((problem for problem in problems if problem.severity == "error"), None)
    if error is not None:
        raise SourceError(document.describe(error))
    return peers, problems


_PUBLISHED = (
    "the list holds this node's own private key here. If rait.conf has a public key in place of "
    "the private one, mend that. Else everyone who can read the list knows the private key: make a "
    "new one with `rait genkey`, and put the public key that `rait pubkey` makes of it into the "
    "list"
)


def _refuse_text_with(secret: Secret, text: str, name: str) -> None:
    """Raise PublishedKeyError, with the line, if the text holds the private key anywhere."""
    key = secret.reveal()
    spellings = ((key.rstrip("="), text), (a2b_base64(key).hex(), text.lower()))
    for spelling, where in spellings:
        before, found, _ = where.partition(spelling)
        if found:
            document = Document(name, {}, dict, text)
            raise PublishedKeyError(f"{document.at(before.count(chr(10)) + 1)}: {_PUBLISHED}")


def _refuse_peer_with(key: str, peers: Iterable[Peer], document: Document) -> None:
    """Raise PublishedKeyError if a peer has the private key, even if its text was escaped."""
    for peer in peers:
        if peer.public_key == key:
            problem = Problem(_PUBLISHED, "error", peer.endpoints[0].path)
            raise PublishedKeyError(document.describe(problem))


def _refuse_pair_of(public_key: str, peers: LoadedPeers) -> None:
    """Raise PublishedKeyError where a peer's key is the private key of this public key."""
    for peer in peers.peers:
        raw = a2b_base64(peer.public_key)
        # What `wg genkey` makes is clamped (RFC 7748, section 5), and so is one public key in 16:
        # to work out the public keys of a hundred thousand would take seconds.
        if keys.clamped(raw) == raw and keys.public_key(Secret(peer.public_key)) == public_key:
            _refuse_peer_with(peer.public_key, (peer,), peers.document)


def load_key(loaded: Loaded, *, read: Read = source.read) -> KeyPair:
    """The private key, from the configuration or the file that it names, with its public key.

    Raises ConfigError where there is no usable key.
    """
    secret = loaded.config.private_key
    if secret is None:
        try:
            secret = read_key(loaded.config.private_key_file or "", read)
        except (SourceError, ConfigError) as error:
            raise ConfigError(f"{loaded.place_of('private_key_file')}: {error}") from None
    return KeyPair(secret, caches.public_key(secret, keys.public_key))


def read_key(url: str, read: Read) -> Secret:
    """The key in a file as `wg genkey` or `wg genpsk` makes it; no error shows the content."""
    source.refuse_registry(url)
    text = read(url, limit=MAX_KEY_BYTES)
    try:
        return Secret(canonical_key(text))
    except ValueError as error:
        raise ConfigError(f"{source.display_name(url)}: the content {error}") from None


def _error_lines(problems: Iterable[Problem], document: Document) -> tuple[str, ...]:
    """A line for each error, in the order of the file; many errors are counted in the end."""
    from rait.domain.config.decoding import UNKNOWN

    errors = [problem for problem in problems if problem.severity == "error"]

    def position(problem: Problem) -> tuple[bool, int]:
        # A key that is spelt wrong makes another one missing: the cause comes first.
        return not problem.message.startswith(UNKNOWN), document.locate(problem.path) or 0

    return document.describe_all(sorted(errors, key=position))


def _digest(text: str) -> str:
    return fast_sha256()(text.encode("utf-8", "surrogatepass")).hexdigest()
