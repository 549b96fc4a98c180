"""Fetches text over HTTP and HTTPS, with bounds on time, size and redirects.

A body that was cut off may still be valid text, and the peers missing from it would lose their
links. So a body counts only if it ends as the server announced: by its length, its last chunk (RFC
9112, section 6), or the checksum at the end of gzip (RFC 1952). A body that ends only with the
connection is refused.

All of it ends with its time: neither a name with many addresses of which none answers, nor a server
that drips bytes, leaves anything behind in a process that stays.

A server is told which version of a text is known already, so that it need not send it again (RFC
9110, section 13). Only the URL that sent the version is told, and not one that leads there by a
redirection: an ETag says nothing to any other.
"""

from __future__ import annotations

import asyncio
import os
import re
import ssl
import time
import zlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache, partial
from http.cookiejar import CookieJar
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

import anyio
import httpx

from rait.adapters.config import source
from rait.adapters.config.remote import (
    CONDITIONS,
    NO_VERSION,
    News,
    Version,
    as_etag,
    as_modified,
    in_daemon,
    url_digest,
)
from rait.adapters.config.source import as_text, display_name
from rait.domain.config.keytext import shown
from rait.domain.config.schema import MAX_PORT
from rait.domain.errors import SourceError

REDIRECTS = 5
MAX_SHOWN = 500
_CREDENTIALS = re.compile(r"//[^/@\s]*@")
_ERRNO = re.compile(r"\[Errno -?\d+\] ")
_BYTES = re.compile(r"\bbytearray\(b(.*)\)", re.DOTALL)
"""How h11 quotes what a server sent: as a Python literal, which no user wants to read."""
_GZIP = ("gzip", "x-gzip")
_GZIP_WINDOW = 16 + zlib.MAX_WBITS


def fetch(url: str, limit: int, known: Version = NO_VERSION) -> News:
    """As ``source.fetch``, for the body of a 200 answer of up to ``limit`` bytes.

    TLS is verified against the machine's own certificates. An error names, after a redirection, the
    URL that failed too.
    """
    transfer = _Transfer(url, limit, known)
    # In a thread, as the caller may have an event loop of its own.
    return in_daemon(lambda: anyio.run(transfer.run), "rait-fetch").result()


class _Transfer:
    """One transfer of a text."""

    def __init__(self, url: str, limit: int, known: Version) -> None:
        self._url = url
        self._redirected_to: str | None = None
        self._timeout = source.TIMEOUT
        self._limit = limit
        self._known = known

    async def run(self) -> News:
        asyncio.get_running_loop().set_default_executor(LookUps())
        try:
            with anyio.fail_after(self._timeout):
                return await self._get()
        except SourceError:
            raise
        except TimeoutError:
            why = f"no whole answer within {self._timeout:g} seconds"
        except httpx.InvalidURL:
            why = "the URL is not valid"
        except httpx.ConnectError as error:
            why = _why_no_connection(error)
        except httpx.NetworkError as error:
            why = f"the transfer failed: {reason(first_of(error))}"
        except httpx.HTTPError as error:
            why = f"the transfer failed: {scrubbed(error)}"
        except Exception as error:  # noqa: BLE001 - nobody above a thread would report it
            why = f"cannot be fetched: {scrubbed(error)}"
        raise self._failed(why)

    def _failed(self, message: str) -> SourceError:
        name = display_name(self._url)
        if self._redirected_to is not None:
            # The server chose this URL, and its length.
            name += f": redirected to {display_name(self._redirected_to)[:MAX_SHOWN]}"
        return SourceError(f"{name}: {message}")

    async def _get(self) -> News:
        at = time.time_ns()  # before it is asked: what comes may be as old as that
        url, auth = _without_credentials(self._url)
        async with self._client() as client:
            request = client.build_request("GET", url)
            for _ in range(REDIRECTS + 1):
                if (request.url.port or 0) > MAX_PORT:
                    # httpx takes the number modulo 65536.
                    raise self._failed(f"the port is not from 1 to {MAX_PORT}")
                conditions = self._known.conditions(str(request.url))
                request.headers.update(conditions)
                response = await client.send(request, auth=auth, stream=True)
                try:
                    onward = response.next_request
                    if onward is None:
                        return await self._news(response, at, is_known=bool(conditions))
                    self._redirected_to = str(onward.url)
                    if request.url.scheme == "https" and onward.url.scheme != "https":
                        raise self._failed("is redirected from https to http, which is refused")
                finally:
                    await response.aclose()
                # httpx keeps all headers, but that of Authorization only within one origin.
                for name in CONDITIONS:
                    onward.headers.pop(name, None)
                request, auth = onward, None
        raise self._failed(f"is redirected more than {REDIRECTS} times")

    def _client(self) -> httpx.AsyncClient:
        trust = _trust()
        try:
            return httpx.AsyncClient(
                verify=trust,
                timeout=None,  # noqa: S113 - the whole has its own
                # By itself, httpx asks for several codings, and undoes as many as there are.
                headers={"Accept-Encoding": "identity"},
                cookies=NoCookies(),
            )
        except (httpx.InvalidURL, ValueError, ImportError):  # whose texts may hold a password
            raise self._failed(
                "HTTP_PROXY, HTTPS_PROXY, ALL_PROXY or NO_PROXY in the environment cannot be used: "
                "a proxy is http://HOST:PORT, and NO_PROXY has hosts with commas between them"
            ) from None

    async def _news(self, response: httpx.Response, at: int, *, is_known: bool) -> News:
        if response.status_code == httpx.codes.NOT_MODIFIED and is_known:
            return News(None, self._known, at)
        body, headers = await self._body(response), response.headers
        etag = as_etag(headers.get("ETag", ""))
        modified = as_modified(headers.get("Last-Modified", ""))
        text = as_text(body, display_name(self._url), self._limit)
        return News(text, Version(url_digest(str(response.url)), etag, modified), at)

    async def _body(self, response: httpx.Response) -> bytes:
        if response.status_code != httpx.codes.OK:
            status = f"{response.status_code} {response.reason_phrase}".strip()
            raise self._failed(f"the server answered {status} instead of 200 OK")
        unpacker = self._unpacker(response)
        body = bytearray()
        taken = 0
        async for part in response.aiter_raw():
            taken += len(part)  # gzip may go on for ever without there being anything in it
            body += part if unpacker is None else self._unpacked(unpacker, part, len(body))
            if max(taken, len(body)) > self._limit:
                raise self._failed(f"larger than {self._limit} bytes, the most that rait reads")
        self._check_end(response, unpacker)
        return bytes(body)

    def _check_end(self, response: httpx.Response, unpacker: zlib._Decompress | None) -> None:
        """Refuse a body that may lack its end. httpx has checked a length, or chunks, itself."""
        if unpacker is not None:
            if not unpacker.eof:
                raise self._failed("the answer is cut off: its gzip compression does not end")
        elif not {"content-length", "transfer-encoding"} & response.headers.keys():
            raise self._failed(
                "the server announces no length, so an answer that is cut off would look whole; "
                "it must send Content-Length or chunks"
            )

    def _unpacker(self, response: httpx.Response) -> zlib._Decompress | None:
        """The decompressor for the body, None for a plain one."""
        listed = response.headers.get("Content-Encoding", "").lower().split(",")
        codings = [coding for word in listed if (coding := word.strip()) not in ("", "identity")]
        if len(codings) == 1 and codings[0] in _GZIP:
            return zlib.decompressobj(_GZIP_WINDOW)
        if codings:
            raise self._failed(
                f"the server encoded the answer ({shown(', '.join(codings))}): "
                "rait asks for plain text and takes at most one gzip"
            )
        return None

    def _unpacked(self, unpacker: zlib._Decompress, part: bytes, size: int) -> bytes:
        """The content of a part, but no more of it than shows that the limit is exceeded."""
        try:
            data = unpacker.decompress(part, self._limit + 1 - size)
        except zlib.error:
            raise self._failed("the answer is damaged: it is not valid gzip") from None
        if unpacker.unused_data:
            raise self._failed("the answer goes on after the end of its gzip compression")
        return data


class LookUps(ThreadPoolExecutor):
    """A daemon for each look-up of a name, as nothing can interrupt one.

    An event loop does its look-ups by its default executor, which must be a ThreadPoolExecutor.
    """

    def submit(self, look_up: Callable[..., Any], /, *names: Any, **how: Any) -> Future[Any]:
        return in_daemon(partial(look_up, *names, **how), "rait-name")


class NoCookies(CookieJar):
    """Takes no cookies: transfers are independent, and a server may send cookies slow to parse."""

    def extract_cookies(self, response: Any, request: Any) -> None:
        pass


def _without_credentials(url: str) -> tuple[str, tuple[str, str] | None]:
    # httpx logs whole URLs, so user and password must not be in them.
    try:
        parts = urlsplit(url)
    except ValueError:  # its text may hold the password
        raise httpx.InvalidURL("") from None
    userinfo, at, host = parts.netloc.rpartition("@")
    if not at:
        return url, None
    user, _, password = userinfo.partition(":")
    bare = urlunsplit((parts.scheme, host, parts.path, parts.query, parts.fragment))
    return bare, (unquote(user), unquote(password))


def _trust() -> ssl.SSLContext:
    # The machine's certificates, to which an administrator can add. If it has none, those that come
    # with httpx.
    paths = ssl.get_default_verify_paths()
    found = tuple(path for path in (paths.cafile, paths.capath) if path)
    return _trust_in(found, tuple(os.stat(path).st_mtime_ns for path in found))


@lru_cache(
    maxsize=1
)  # to read the certificates takes 50 ms, which `rait watch` had to do each time
def _trust_in(paths: tuple[str, ...], _: tuple[int, ...]) -> ssl.SSLContext:
    return ssl.create_default_context() if paths else httpx.create_ssl_context()


def _why_no_connection(error: httpx.ConnectError) -> str:
    first = first_of(error)
    if isinstance(first, ssl.SSLCertVerificationError):
        return f"the server's certificate is not trusted: {first.verify_message}"
    return f"no connection: {reason(first)}"


def first_of(error: BaseException) -> BaseException:
    """What went wrong first, of which httpx makes other errors."""
    while (before := error.__cause__ or error.__context__) is not None:
        error = before
    if isinstance(error, BaseExceptionGroup):  # of a name with several addresses
        error = error.exceptions[0]
    return error


def reason(error: BaseException) -> str:
    """What an error of the system or of a library says."""
    number = getattr(error, "errno", None) or 0  # below 0 for names, and another one for TLS
    if number > 0 and not isinstance(error, ssl.SSLError):
        return os.strerror(number)  # asyncio may only say that a connection failed
    return getattr(error, "strerror", None) or scrubbed(error)


def scrubbed(error: BaseException) -> str:
    """What an error says, without credentials, its number, and Python's way to write bytes."""
    text = _ERRNO.sub("", _BYTES.sub(r"\1", str(error)))
    return _CREDENTIALS.sub("//", text) or type(error).__name__
