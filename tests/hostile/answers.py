"""What a web server may answer: good, broken, and malicious.

An answer is made of bytes to send and, as numbers, of seconds to wait before the next ones; the
connection is closed at its end. ``{port}`` in a text is the server's own port.
"""

from __future__ import annotations

import gzip
import itertools
import zlib
from collections.abc import Iterable, Iterator

Answer = Iterable[bytes | float]

TEXT = b"peers = []\n"
MIB = 1024 * 1024


def head(*fields: str, status: str = "200 OK") -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", *fields, "", ""]).encode("latin-1")


def whole(body: bytes = TEXT, *fields: str, status: str = "200 OK") -> Answer:
    return [head(f"Content-Length: {len(body)}", *fields, status=status), body]


def packed(body: bytes, codings: str = "gzip") -> Answer:
    return whole(body, f"Content-Encoding: {codings}")


def moved(to: str, status: str = "302 Found") -> Answer:
    return whole(b"", f"Location: {to}", status=status)


def chunked(chunks: Iterable[bytes], *fields: str, end: bytes = b"0\r\n\r\n") -> Iterator[bytes]:
    yield head("Transfer-Encoding: chunked", *fields)
    for chunk in chunks:
        yield b"%x\r\n%b\r\n" % (len(chunk), chunk)
    yield end


def endless(*start: bytes, then: bytes, wait: float = 0) -> Iterator[bytes | float]:
    yield from start
    while True:
        yield then
        if wait:
            yield wait


def bomb(levels: int, size: int = 256 * MIB) -> bytes:
    """Zeros, compressed so many times over."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    body = b"".join(packer.compress(bytes(MIB)) for _ in range(size // MIB)) + packer.flush()
    for _ in range(levels - 1):
        body = gzip.compress(body)
    return body


def _damaged(body: bytes) -> bytes:
    return body[:-6] + bytes([body[-6] ^ 1]) + body[-5:]


GZIP = gzip.compress(TEXT)
EMPTY_GZIP = [b"\x1f\x8b\x08\0\0\0\0\0\0\x03"]
EMPTY_BLOCKS = b"\0\0\0\xff\xff" * 10_000

MISSING = whole(status="404 Not Found")

GOOD = {
    "plain": whole(),
    "chunks": chunked([TEXT[:4], TEXT[4:]]),
    "gzip": packed(GZIP),
    "x-gzip": packed(GZIP, "identity, X-GZIP"),
    "gzip in chunks": chunked([GZIP[:9], GZIP[9:]], "Content-Encoding: gzip"),
    "gzip tells its own end": [head("Content-Encoding: gzip"), GZIP],
    "a byte order mark": whole(b"\xef\xbb\xbf" + TEXT),
    "another charset announced": whole(TEXT, "Content-Type: text/plain; charset=utf-16"),
    "a hint before": [head(status="103 Early Hints"), *whole()],
    "redirected": moved("/plain", "308 Permanent Redirect"),
    "an old server": [b"HTTP/1.0 200 OK\r\nContent-Length: 11\r\n\r\n", TEXT],
    "cookies": whole(TEXT, *["Set-Cookie: " + "a=\"b;' ," * 1000] * 8),
    "a cookie's date": whole(TEXT, "Set-Cookie: a=b; expires=" + "1 " * 40000),
    "slowly": [
        head("Content-Length: 11"),
        *itertools.chain(*([TEXT[i : i + 1], 0.01] for i in range(11))),
    ],
}

NO_END = "transfer failed"
NO_LENGTH = "announces no length"
CUT = "the answer is cut off: its gzip compression does not end"
PACKED = "the server encoded the answer"
LARGE = "larger than 8388608 bytes, the most that rait reads"

BAD: dict[str, tuple[Answer, str]] = {
    # What ends before its end
    "cut off": ([head("Content-Length: 12"), TEXT], NO_END),
    "cut off, large": ([head(f"Content-Length: {10**18}"), TEXT], NO_END),
    "no length": ([head(), TEXT], NO_LENGTH),
    "no length, old": ([b"HTTP/1.0 200 OK\r\n\r\n", TEXT], NO_LENGTH),
    "no last chunk": (chunked([TEXT], end=b""), NO_END),
    "half of a last chunk": (chunked([TEXT], end=b"0\r\n"), NO_END),
    "a short chunk": ([head("Transfer-Encoding: chunked"), b"ff\r\n", TEXT], NO_END),
    "gzip, cut off": (packed(GZIP[:-9]), CUT),
    "gzip, without its checksum": (packed(GZIP[:-8]), CUT),
    "gzip, half of its checksum": (packed(GZIP[:-1]), CUT),
    "gzip, cut off by the connection": ([head("Content-Encoding: gzip"), GZIP[:-1]], CUT),
    "gzip of nothing": (packed(b""), CUT),
    "gzip, a wrong checksum": (packed(_damaged(GZIP)), "the answer is damaged"),
    "gzip that is none": (packed(TEXT), "the answer is damaged"),
    "gzip and more": (packed(GZIP + TEXT), "goes on after the end"),
    "gzip twice in a row": (packed(GZIP + GZIP), "goes on after the end"),
    # What grows
    "gzip, a bomb": (packed(bomb(1)), LARGE),
    "gzip of gzip, a bomb": (packed(bomb(2), "gzip, gzip"), PACKED),
    "gzip of gzip, in two fields": (
        [head("Content-Encoding: gzip", "Content-Encoding: gzip", "Content-Length: 9"), bytes(9)],
        PACKED,
    ),
    "a hundred times gzip": (packed(GZIP, ", ".join(["gzip"] * 100)), PACKED),
    "gzip without end": (
        chunked(
            itertools.chain(EMPTY_GZIP, itertools.repeat(EMPTY_BLOCKS)), "Content-Encoding: gzip"
        ),
        LARGE,
    ),
    "deflate": (packed(zlib.compress(TEXT), "deflate"), PACKED),
    "br": (packed(TEXT, "br"), PACKED),
    "zstd": (packed(TEXT, "zstd"), PACKED),
    "a coding that is none": (packed(TEXT, "\x1b[2Jgzip"), PACKED),
    "too large": (endless(head(f"Content-Length: {10**12}"), then=bytes(65536)), LARGE),
    "without end": (endless(head(), then=b"#" * 65536), LARGE),
    "chunks without end": (chunked(itertools.repeat(b"#" * 65536)), LARGE),
    # What is no answer
    "nothing": ([], NO_END),
    "garbage": ([b"\0\1\2\r\n\r\n"], NO_END),
    "an answer of HTTP/0.9": ([TEXT], NO_END),
    "an answer of HTTP/2": ([bytes(3) + b"\4\0\0\0\0\0"], NO_END),
    "half of a head": ([b"HTTP/1.1 200 OK\r\nContent-"], NO_END),
    "two lengths": (whole(TEXT, "Content-Length: 5"), NO_END),
    "a length below zero": ([head("Content-Length: -1"), TEXT], NO_END),
    "a length that is none": ([head("Content-Length: ten"), TEXT], NO_END),
    "a length of many digits": ([head("Content-Length: " + "9" * 5000), TEXT], NO_END),
    "a transfer coding": ([head("Transfer-Encoding: gzip, chunked"), GZIP], NO_END),
    "a chunk of negative length": ([head("Transfer-Encoding: chunked"), b"-1\r\n"], NO_END),
    "an endless length of a chunk": (
        endless(head("Transfer-Encoding: chunked"), then=b"0" * 65536),
        NO_END,
    ),
    "an endless remark in a chunk": (
        endless(head("Transfer-Encoding: chunked"), b"1;", then=b"x" * 65536),
        NO_END,
    ),
    "endless trailers": (
        endless(head("Transfer-Encoding: chunked"), b"0\r\n", then=b"a: b\r\n" * 10000),
        NO_END,
    ),
    "an endless status": (endless(b"HTTP/1.1 200 ", then=b"x" * 65536), NO_END),
    "an endless field": (endless(b"HTTP/1.1 200 OK\r\na: ", then=b"x" * 65536), NO_END),
    "endless fields": (endless(b"HTTP/1.1 200 OK\r\n", then=b"a: b\r\n" * 10000), NO_END),
    "folded fields": (endless(b"HTTP/1.1 200 OK\r\na: b\r\n", then=b" c\r\n" * 9999), NO_END),
    # What is no use
    "missing": (MISSING, "answered 404 Not Found instead of 200 OK"),
    "a status for a terminal": (
        [b"HTTP/1.1 404 \x1b[2J\rrait up: nothing to do\r\n\r\n"],
        r"illegal status line: 'HTTP/1.1 404 \x1b[2J\rrait up: nothing to do'",
    ),
    "a part": (whole(status="206 Partial Content"), "answered 206"),
    "no content": ([head(status="204 No Content")], "answered 204"),
    "not modified": ([head(status="304 Not Modified")], "answered 304"),
    "moved to nowhere": (whole(status="301 Moved"), "answered 301"),
    "a status of 999": (whole(status="999 x"), "answered 999"),
    # Redirects: whose fault it is
    "to what is missing": (
        moved("/missing?token=secret"),
        "redirected to http://127.0.0.1:{port}/missing?...: the server answered 404",
    ),
    "to itself": (moved("/to itself"), "is redirected more than 5 times"),
    "to another scheme": (moved("ftp://127.0.0.1/x"), "redirected to ftp://127.0.0.1/x"),
    "to a file": (moved("file:///etc/passwd"), "redirected to file://"),
    "to a port that is none": (moved("http://127.0.0.1:99999/"), "the port is not from 1"),
    "to no URL": (moved("http://[::1"), "Invalid URL in location header"),
    "to no host": (moved("http://"), "redirected to http://127.0.0.1"),
    "to where nobody is": (moved("http://127.0.0.1:1/x"), "http://127.0.0.1:1/x: no connection"),
    "to a very long URL": (moved("/" + "x" * 90000), "URL too long"),
    "to a long URL that is missing": (moved("/" + "x" * 9000), "redirected to http://"),
    "to a user": (moved("http://me:secret@127.0.0.1:1/"), "redirected to http://127.0.0.1:1/"),
    # What is no text
    "UTF-16": (whole(TEXT.decode().encode("utf-16")), "not text in UTF-8 (byte 1)"),
    "UTF-16 without a mark": (whole(TEXT.decode().encode("utf-16-le")), "NUL"),
    "NUL": (whole(TEXT + bytes(100)), "NUL"),
    "Latin-1": (whole("é".encode("latin-1")), "not text in UTF-8"),
    "a surrogate": (whole(b"\xed\xa0\x80"), "not text in UTF-8"),
    "cut in a character": (whole("é".encode()[:1]), "not text in UTF-8"),
}

SLOW: dict[str, Answer] = {
    "silence": [60.0],
    "a head that drips": endless(b"HTTP/1.1 200 OK\r\nX: ", then=b"x", wait=0.02),
    "a body that drips": endless(head("Content-Length: 99999"), then=b"#", wait=0.02),
    "chunks that drip": endless(head("Transfer-Encoding: chunked"), then=b"1\r\n#\r\n", wait=0.02),
    "hints without end": endless(then=head(status="103 Early Hints"), wait=0.001),
    "tiny chunks": chunked(itertools.repeat(b"#")),
    "a body that stops": [head("Content-Length: 12"), TEXT, 60.0],
    "a last chunk that stays away": [*chunked([TEXT], end=b"0\r\n"), 60.0],
    "gzip that stops": [head("Content-Encoding: gzip"), GZIP[:-1], 60.0],
}
"""What does not come to its end in time."""
