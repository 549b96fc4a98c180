"""Fetches text over HTTP and HTTPS, with bounds on time, size and redirects."""

from __future__ import annotations

import re
import ssl
import threading
import time
from urllib.parse import unquote, urlsplit, urlunsplit

import httpx

from rait.domain.problem import SourceError

REDIRECTS = 5
MAX_PORT = 65535
_CREDENTIALS = re.compile(r"//[^/@\s]*@")


def fetch(url: str, name: str, timeout: float, limit: int) -> bytes:
    """The body of a 200 answer, at most one chunk longer than ``limit``; ``timeout`` in seconds.

    TLS is verified against the machine's own certificates. Raises SourceError with ``name``.
    """
    transfer = _Transfer(url, name, timeout, limit)
    # A thread, since no timeout of a socket bounds a look-up, or a server that drips bytes. It is
    # a daemon, so that it never keeps the process from its end.
    thread = threading.Thread(target=transfer.run, name="rait-fetch", daemon=True)
    thread.start()
    thread.join(timeout)
    if transfer.error is not None:
        raise transfer.error
    if transfer.body is None:
        raise SourceError(f"{name}: no whole answer within {timeout:g} seconds")
    return transfer.body


class _Transfer:
    """One transfer; after ``run`` either ``body`` or ``error`` is set."""

    def __init__(self, url: str, name: str, timeout: float, limit: int) -> None:
        self.body: bytes | None = None
        self.error: SourceError | None = None
        self._url = url
        self._name = name
        self._timeout = timeout
        self._limit = limit
        self._deadline = time.monotonic() + timeout

    def run(self) -> None:
        try:
            self.body = self._get()
        except SourceError as error:
            self.error = error
        except httpx.TimeoutException:
            self.error = self._failed(f"no answer within {self._timeout:g} seconds")
        except httpx.InvalidURL:
            self.error = self._failed("the URL is not valid")
        except httpx.ConnectError as error:
            self.error = self._failed(_why_no_connection(error))
        except httpx.HTTPError as error:
            self.error = self._failed(f"the transfer failed: {_scrubbed(error)}")
        except (OSError, ValueError) as error:
            self.error = self._failed(f"cannot be fetched: {_scrubbed(error)}")

    def _failed(self, message: str) -> SourceError:
        return SourceError(f"{self._name}: {message}")

    def _get(self) -> bytes:
        url, auth = _without_credentials(self._url)
        with httpx.Client(verify=_trust(), timeout=self._timeout) as client:
            request = client.build_request("GET", url)
            for _ in range(REDIRECTS + 1):
                if (request.url.port or 0) > MAX_PORT:
                    # httpx would take the number modulo 65536.
                    raise self._failed(f"port {request.url.port} is not from 1 to {MAX_PORT}")
                response = client.send(request, auth=auth, stream=True)
                try:
                    onward = response.next_request
                    if onward is None:
                        return self._body(response)
                    if request.url.scheme == "https" and onward.url.scheme != "https":
                        raise self._failed("is redirected from https to http, which is refused")
                finally:
                    response.close()
                # httpx keeps the Authorization header while the origin stays the same.
                request, auth = onward, None
        raise self._failed(f"is redirected more than {REDIRECTS} times")

    def _body(self, response: httpx.Response) -> bytes:
        if response.status_code != httpx.codes.OK:
            status = f"{response.status_code} {response.reason_phrase}".strip()
            raise self._failed(f"the server answered {status} instead of 200 OK")
        parts, size = [], 0
        for part in response.iter_bytes():
            parts.append(part)
            size += len(part)
            if size > self._limit or time.monotonic() > self._deadline:
                break
        if size <= self._limit and time.monotonic() > self._deadline:
            raise self._failed(f"no whole answer within {self._timeout:g} seconds")
        return b"".join(parts)


def _without_credentials(url: str) -> tuple[str, tuple[str, str] | None]:
    # httpx logs URLs as they are, so user and password must not be in them.
    parts = urlsplit(url)
    userinfo, at, host = parts.netloc.rpartition("@")
    if not at:
        return url, None
    user, _, password = userinfo.partition(":")
    bare = urlunsplit((parts.scheme, host, parts.path, parts.query, parts.fragment))
    return bare, (unquote(user), unquote(password))


def _trust() -> ssl.SSLContext:
    # The machine's certificates and not those that httpx brings: an administrator adds to the
    # former. Without any, httpx's are better than none.
    paths = ssl.get_default_verify_paths()
    if paths.cafile or paths.capath:
        return ssl.create_default_context()
    return httpx.create_ssl_context()


def _why_no_connection(error: httpx.ConnectError) -> str:
    text = _scrubbed(error)
    if "CERTIFICATE_VERIFY_FAILED" in text:
        reason = text.partition("certificate verify failed: ")[2].partition(" (_ssl")[0]
        return f"the server's certificate is not trusted: {reason or text}"
    return f"no connection: {text}"


def _scrubbed(error: Exception) -> str:
    return _CREDENTIALS.sub("//", str(error)) or type(error).__name__
