"""Texts from paths, standard input and the web, each failure with a reason."""

from __future__ import annotations

import asyncio
import errno
import io
import logging
import os
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from msgspec import structs

from rait.adapters.config import source, web
from rait.adapters.config.remote import Version, url_digest
from rait.domain.errors import SourceError

BODY = "peers = []\n"
ETAG, MODIFIED = 'W/"5c-abc"', "Wed, 25 Nov 2026 10:00:00 GMT"


NO_VERSION = Version()


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        self.server.seen.append((self.path, self.headers.get("Authorization")))
        conditions = (self.headers.get(name) for name in ("If-None-Match", "If-Modified-Since"))
        self.server.asked.append(tuple(conditions))
        getattr(self, "_" + self.path.strip("/").partition("?")[0], self._missing)()

    def log_message(self, *args: object) -> None:
        pass

    def _missing(self) -> None:
        self.send_error(404)

    def _answer(self, body: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, text in headers.items():
            self.send_header(name.replace("_", "-"), text)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _ok(self) -> None:
        self._answer(BODY.encode())

    def _versioned(self) -> None:
        is_known = self.headers.get("If-None-Match") == ETAG
        if is_known:
            self._answer(b"", 304)
        else:
            self._answer(BODY.encode(), ETag=ETAG, Last_Modified=MODIFIED)

    def _odd(self) -> None:
        self._answer(BODY.encode(), ETag=self.server.etag, Last_Modified=self.server.modified)

    def _unasked(self) -> None:
        self._answer(b"", 304)

    def _moved_versioned(self) -> None:
        self._redirect("/versioned")

    def _latin(self) -> None:
        self._answer(b"caf\xe9")

    def _empty(self) -> None:
        self._answer(b"", 204)

    def _cut(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b"peers")

    def _garbage(self) -> None:
        self.wfile.write(b"\x00\x01\x02\r\n\r\n")

    def _endless(self) -> None:
        self.send_response(200)
        self.end_headers()
        try:
            while not self.server.closing.is_set():
                self.wfile.write(b"#" * 65536)
        except OSError:
            pass

    def _silent(self) -> None:
        self.server.closing.wait(30)

    def _drip(self) -> None:
        try:
            self.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
            while not self.server.closing.wait(0.05):
                self.wfile.write(b"x")
        except OSError:
            pass

    def _hints(self) -> None:
        try:
            while not self.server.closing.wait(0.001):
                self.wfile.write(b"HTTP/1.1 103 Early Hints\r\n\r\n")
        except OSError:
            pass

    def _trailers(self) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: ")
        self._drip()

    def _redirect(self, to: str) -> None:
        self.send_response(302)
        self.send_header("Location", to)
        self.end_headers()

    def _moved(self) -> None:
        self._redirect("/ok")

    def _loop(self) -> None:
        self._redirect("/loop")

    def _plain(self) -> None:
        self._redirect(f"http://127.0.0.1:{self.server.other}/ok")


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.seen: list[tuple[str, str | None]] = []
        self.asked: list[tuple[str | None, ...]] = []
        self.etag = self.modified = ""
        self.closing = threading.Event()
        self.other = 0

    @property
    def port(self) -> int:
        return int(self.server_address[1])


def _running(server: _Server) -> Iterator[_Server]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def server() -> Iterator[_Server]:
    yield from _running(_Server())


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from ipaddress import ip_address

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "rait test")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    plain = serialization.NoEncryption()
    kind = serialization.PrivateFormat.PKCS8
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, kind, plain)
        + made.public_bytes(serialization.Encoding.PEM)
    )
    return path


@pytest.fixture
def tls_server(certificate: Path, server: _Server) -> Iterator[_Server]:
    secure = _Server()
    secure.other = server.port
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    secure.socket = context.wrap_socket(secure.socket, server_side=True)
    secure.handle_error = lambda *_: None  # type: ignore[method-assign]
    yield from _running(secure)


def refused(url: str, **options: object) -> str:
    with pytest.raises(SourceError) as caught:
        source.read(url, **options)  # type: ignore[arg-type]
    return str(caught.value)


def test_a_file(tmp_path):
    path = tmp_path / "peers.conf"
    path.write_bytes(b"\xef\xbb\xbf" + BODY.encode())
    assert source.read(str(path)) == BODY


def test_a_fifo(tmp_path):
    path = tmp_path / "fifo"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_text, args=(BODY,))
    writer.start()
    assert source.read(str(path)) == BODY
    writer.join()


def test_a_daemon_waits_for_no_fifo_and_no_terminal(tmp_path, monkeypatch):
    monkeypatch.setattr(source, "_files_alone", False)
    source.take_files_alone()
    path = tmp_path / "fifo"
    os.mkfifo(path)
    for each in (str(path), "/dev/ptmx"):
        assert refused(each) == f"{each}: it is not a regular file, as `rait watch` needs it"
    path.unlink()
    path.write_text(BODY)
    assert source.read(str(path)) == BODY


def test_files_that_cannot_be_read(tmp_path):
    assert refused(str(tmp_path / "none")) == f"{tmp_path / 'none'}: there is no such file"
    assert "is a directory" in refused(str(tmp_path))
    assert "NUL" in refused("a\0b")
    assert "larger than 10 bytes" in refused("/dev/zero", limit=10)
    (tmp_path / "latin").write_bytes(b"abc\xe9")
    assert "not text in UTF-8 (byte 4)" in refused(str(tmp_path / "latin"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_file_of_another_user(tmp_path):
    path = tmp_path / "closed"
    path.touch(mode=0o600)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.setuid(65534)
            source.read(str(path))
        except SourceError as error:
            status = 0 if "this user may not read it" in str(error) else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_standard_input(monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(BODY.encode())))
    assert source.read("-") == BODY
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"x" * 11)))
    message = refused("-", limit=10)
    assert message.startswith("standard input: larger than 10 bytes")


def test_other_schemes_are_refused():
    read = "rait reads paths, - (standard input), http://, https://, etcd:// and etcds://"
    assert read in refused("ftp://user:secret@example.org/x")
    assert "secret" not in refused("ftp://user:secret@example.org/x")
    assert "rait reads paths" in refused("file:///etc/passwd")


def test_http(server):
    assert source.read(f"http://127.0.0.1:{server.port}/ok") == BODY
    assert source.read(f"HTTP://127.0.0.1:{server.port}/moved") == BODY


def test_a_proxy_of_the_environment_is_asked(server, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{server.port}")
    with pytest.raises(SourceError, match="404"):
        source.read("http://registry.invalid/peers.conf")
    assert [path for path, _ in server.seen] == ["http://registry.invalid/peers.conf"]
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    assert source.read(f"http://127.0.0.1:{server.port}/ok") == BODY
    assert server.seen[-1][0] == "/ok"


def test_credentials_are_used_and_not_shown(server, caplog):
    caplog.set_level(logging.DEBUG)
    url = f"http://user:sec%40ret@127.0.0.1:{server.port}"
    assert source.read(f"{url}/moved") == BODY
    assert [auth for _, auth in server.seen] == ["Basic dXNlcjpzZWNAcmV0"] * 2
    message = refused(f"{url}/none?token=hidden")
    for text in (message, caplog.text.replace("/none?token=hidden", "")):
        assert "sec%40ret" not in text
        assert "sec@ret" not in text
    assert "hidden" not in message
    assert message.startswith(f"http://127.0.0.1:{server.port}/none?...:")


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("none", "answered 404 Not Found"),
        ("empty", "answered 204 No Content"),
        ("latin", "not text in UTF-8"),
        ("cut", "transfer failed"),
        ("garbage", "transfer failed"),
        ("loop", "redirected more than 5 times"),
        ("unasked", "answered 304 Not Modified"),
    ],
)
def test_answers_that_are_no_use(server, path, says):
    assert says in refused(f"http://127.0.0.1:{server.port}/{path}")


def fetched(url: str, known: Version = NO_VERSION) -> tuple[str | None, Version]:
    news = source.fetch(url, known, 1000)
    assert abs(time.time_ns() - news.at) < 600 * 10**9
    return news.text, news.version


def test_what_is_known_is_not_sent_again(server):
    url = f"http://user:pass@127.0.0.1:{server.port}/versioned"
    text, version = fetched(url)
    assert (text, version.etag, version.modified) == (BODY, ETAG, MODIFIED)
    assert fetched(url, version) == (None, version)
    assert server.asked == [(None, None), (ETAG, MODIFIED)]
    older = structs.replace(version, etag='"older"')
    assert fetched(url, older) == (BODY, version)


def test_a_version_is_of_the_url_that_sent_it_and_of_no_other(server):
    here = f"http://127.0.0.1:{server.port}"
    _, version = fetched(f"{here}/moved_versioned")
    assert fetched(f"{here}/moved_versioned", version) == (None, version)
    assert server.asked[2:] == [(None, None), (ETAG, MODIFIED)]
    fetched(f"{here}/ok", version)
    assert fetched(f"{here}/moved", version)[0] == BODY
    assert server.asked[4:] == [(None, None)] * 3


def test_a_condition_goes_no_further_than_the_url_that_it_is_for(server):
    """The URL that sent the list redirects by now: what follows is another text."""
    here = f"http://127.0.0.1:{server.port}"
    version = Version(url_digest(f"{here}/moved"), ETAG, MODIFIED)
    assert fetched(f"{here}/moved", version)[0] == BODY
    assert server.asked == [(ETAG, MODIFIED), (None, None)]


@pytest.mark.parametrize(
    ("etag", "modified"),
    [
        ("bare", "yesterday"),
        ('"a b"', "Wed, 25 Nov 2026 10:00:00 +0100"),
        ('"caf\xe9"', "25 Nov 2026"),
        (f'"{"x" * 257}"', f"{MODIFIED}, {MODIFIED}"),
        ('"a", "b"', f"{MODIFIED} {'x' * 5000}"),
        ("", ""),
    ],
)
def test_what_no_server_may_send_is_not_sent_back(server, etag, modified):
    server.etag, server.modified = etag, modified
    url = f"http://127.0.0.1:{server.port}/odd"
    text, version = fetched(url)
    assert (text, version.etag, version.modified) == (BODY, "", "")
    # Nor where a file that was kept has it.
    assert Version(url_digest(url), f"{etag}\r\nX: y", f"{modified}\n").conditions(url) == {}
    assert fetched(url, version)[0] == BODY
    assert server.asked == [(None, None)] * 2


def test_too_much(server):
    url = f"http://127.0.0.1:{server.port}/endless"
    assert "larger than 1000000 bytes" in refused(url, limit=1_000_000)


@pytest.mark.parametrize("path", ["silent", "drip", "hints", "trailers"])
def test_too_slow(server, path, monkeypatch):
    """And nothing of it goes on: `rait watch` would have a thread more after each poll."""
    monkeypatch.setattr(source, "TIMEOUT", 0.5)
    message = refused(f"http://127.0.0.1:{server.port}/{path}")
    assert "within 0.5 seconds" in message
    for thread in threading.enumerate():
        if thread.name == "rait-fetch":
            thread.join(60)
            assert not thread.is_alive()


def test_an_address_that_does_not_answer_holds_up_no_other_of_the_name(server, monkeypatch):
    """As where a name has an address in IPv6, and its way is broken."""
    with socket.socket() as full, ExitStack() as waiting:
        full.bind(("127.0.0.2", server.port))
        full.listen(0)
        for _ in range(3):  # from the third on, the kernel drops what asks for a connection
            each = waiting.enter_context(socket.socket())
            each.setblocking(False)
            each.connect_ex(full.getsockname())
        found = [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, server.port))
            for host in ("127.0.0.2", "127.0.0.1")
        ]
        look_up = socket.getaddrinfo
        monkeypatch.setattr(
            socket,
            "getaddrinfo",
            lambda host, *more, **how: (
                found if host in ("two.example", b"two.example") else look_up(host, *more, **how)
            ),
        )
        assert source.read(f"http://two.example:{server.port}/ok") == BODY


def test_nobody_there(server):
    url = f"http://127.0.0.1:{server.port}/ok"
    server.shutdown()
    server.server_close()
    assert refused(url).endswith("no connection: Connection refused")


@pytest.mark.parametrize("url", ["http://", "http://[::1/", "http://127.0.0.1:99999/x"])
def test_urls_that_are_none(url):
    assert refused(url)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HTTP_PROXY", "foo://me:s3cret@127.0.0.1:1"),
        ("HTTP_PROXY", "socks5://me:s3cret@127.0.0.1:1"),
        ("ALL_PROXY", "http://me:s3cret/s3cret@127.0.0.1:1"),
        ("NO_PROXY", "a,[::1"),
    ],
)
def test_a_proxy_that_is_none_is_told_as_such_without_its_password(name, value, monkeypatch):
    monkeypatch.setenv(name, value)
    message = refused("http://127.0.0.1:1/x")
    assert "HTTP_PROXY, HTTPS_PROXY, ALL_PROXY or NO_PROXY" in message
    assert "s3cret" not in message


@pytest.mark.parametrize("port", [65536, 99999])
def test_a_port_that_is_none_is_told_as_such(port):
    url = f"http://127.0.0.1:{port}/x"
    assert refused(url) == f"{url}: the port is not from 1 to 65535"


@pytest.mark.parametrize(
    "url",
    [
        "http://me:s3c\u2100ret@127.0.0.1/x",
        "http://127.0.0.1:66666/ret@127.0.0.1/x",
        "http:/me:66666/s3cret@127.0.0.1/x",
        "etcd://127.0.0.1:66/666@127.0.0.1/p",
        "etcd://127.0.0.1:66?666=s3c@127.0.0.1/p",
    ],
)
def test_why_a_url_is_refused_shows_no_password(url):
    assert not any(part in refused(url) for part in ("66", "s3c", "ret"))


def test_a_key_in_the_place_of_a_path_is_not_shown(tmp_path):
    key = "KJJXmDtAXSrMGuIJVy/2eP65gXm1PTy7vCR/4O/vEEI="
    for path in (key, f"{tmp_path}/{key}"):
        assert key not in refused(path)
        assert "no such file" in refused(path)
    assert refused(key).startswith("(left out: a key, not a path)")
    long = tmp_path / ("long" * 20)
    assert str(long) in refused(str(long))


def test_a_certificate_that_nobody_vouches_for(tls_server):
    message = refused(f"https://127.0.0.1:{tls_server.port}/ok")
    assert "certificate is not trusted: self" in message
    assert tls_server.seen == []


@pytest.mark.parametrize("why", [errno.EHOSTUNREACH, errno.ETIMEDOUT, errno.ECONNREFUSED])
def test_why_there_is_no_connection(why, monkeypatch):
    """asyncio spells such an error with the address only, if it comes after a while."""

    async def connect(*_: object, **__: object) -> None:
        raise OSError(why, "Connect call failed ('192.0.2.1', 80)")

    monkeypatch.setattr(asyncio.BaseEventLoop, "create_connection", connect)
    assert refused("http://192.0.2.1/").endswith(f": no connection: {os.strerror(why)}")


def test_the_certificates_are_read_again_only_if_they_have_changed(certificate, monkeypatch):
    """`rait watch` asks again and again, and an administrator may add a certificate meanwhile."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    before = web._trust()
    assert web._trust() is before
    os.utime(certificate, ns=(1, 1))
    assert web._trust() is not before


def test_a_certificate_that_the_machine_trusts(tls_server, certificate, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    assert source.read(f"https://127.0.0.1:{tls_server.port}/ok") == BODY
    assert "not trusted" in refused(f"https://localhost:{tls_server.port}/ok")


def test_no_way_from_https_to_http(tls_server, server, certificate, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    message = refused(f"https://127.0.0.1:{tls_server.port}/plain")
    assert "from https to http" in message
    assert server.seen == []


@pytest.mark.parametrize(
    ("url", "other", "expected"),
    [
        ("peers", "/etc/rait/rait.conf", "/etc/rait/peers"),
        ("/x/peers", "/etc/rait/rait.conf", "/x/peers"),
        ("peers", "rait.conf", "peers"),
        ("peers", "-", "peers"),
        ("peers", "https://example.org/conf", "peers"),
        ("https://example.org/p", "/etc/rait/rait.conf", "https://example.org/p"),
        ("-", "/etc/rait/rait.conf", "-"),
    ],
)
def test_relative_paths(url, other, expected):
    assert source.beside(url, other) == expected


@pytest.mark.parametrize(
    ("url", "beside"),
    [
        ("peers.toml", "peers.toml.minisig"),
        ("/etc/a?b", "/etc/a?b.minisig"),
        ("https://u:p@h/peers.toml?token=x#f", "https://u:p@h/peers.toml.minisig?token=x#f"),
        ("http://[::1]:8080/", "http://[::1]:8080/.minisig"),
        ("http://h?x", "http://h/.minisig?x"),
    ],
)
def test_where_the_signature_is(url: str, beside: str) -> None:
    assert source.signature_of(url) == beside


@pytest.mark.parametrize(
    ("url", "name"),
    [
        (
            "etcds://me:s3cret@a:1,[::1]:2/rait/peers/?ca=/s3cret#s3cret",
            "etcds://a:1,[::1]:2/rait/peers",
        ),
        ("ETCD://h", "etcd://h"),
        ("https://me:s3cret@h:1/list?s3cret", "https://h:1/list?..."),
        ("https://me:s3%2Fcret@h/%40list", "https://h/%40list"),
        ("https://cdn.example/gh/me/mesh@main/peers.toml",) * 2,
        ("https://me:12/34@cdn.example/peers.toml", source._NO_URL),
        ("https://[::1", source._NO_URL),
        ("/etc/rait@eu:1.conf", "/etc/rait@eu:1.conf"),
    ],
)
def test_what_a_url_is_called_in_messages(url: str, name: str) -> None:
    assert source.display_name(url) == name


def test_what_is_in_etcd_has_no_signature_beside_it() -> None:
    with pytest.raises(SourceError, match="etcd://h/p: what is in etcd is not signed"):
        source.read_signature("etcd://h/p")
