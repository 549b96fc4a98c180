"""Speaks to the members of an etcd cluster, and goes on to the next one where one fails.

A read is linearizable: a member that has lost the others cannot answer it with what was true once.
What a member says counts only if it is whole: a message that is cut off is no JSON.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from math import inf
from typing import Any, TypeVar

import anyio
import httpx
import msgspec

from rait.adapters.config.etcd.messages import (
    Authenticated,
    Changes,
    Failure,
    Streamed,
    decoded,
    encoded,
)
from rait.adapters.config.etcd.target import Target, context, password
from rait.adapters.config.web import MAX_SHOWN, LookUps, NoCookies, first_of, reason
from rait.domain.config.keytext import shown
from rait.domain.errors import SourceError

Message = TypeVar("Message")

MEMBER_SECONDS = 5.0
"""How long one member may take for its answer, before the next is asked."""

BYTES_PER_SECOND = 64 * 1024
"""A member that sends so many has a second more for its answer, so one that drips is told from one
behind a slow network."""

MAX_MESSAGE = 1024 * 1024
"""Bytes of an answer that is no list."""

LONGEST_LINE = 8 * MAX_MESSAGE
"""Bytes of one message of a stream. One tells of up to 1000 revisions."""

_IDLE_SECONDS = 60.0
"""How long a connection stays open for the next question: longer than any heartbeat."""

_FAILED = (httpx.HTTPError, httpx.InvalidURL, OSError, UnicodeError)
"""What httpx and the look-up of a name raise."""

_OLD_TOKEN = ("invalid auth token", "revision of auth store is old", "revision in header is old")
_UNAVAILABLE = (4, 14)
"""Codes of gRPC: DEADLINE_EXCEEDED and UNAVAILABLE, as where a member has no leader."""

_ADVICE = {
    "database space exceeded": "etcd takes no more writes: compact and defragment it, raise "
    "--quota-backend-bytes if need be, and then run `etcdctl alarm disarm`",
    "permission denied": "the role of the user does not allow it",
    "user name is empty": "etcd wants a user: etcds://USER@HOST/PREFIX?password_file=PATH",
    "authentication failed": "look at the user and at the password_file",
    "authentication is not enabled": "etcd has no users: run `etcdctl auth enable`, or leave user "
    "and password_file out",
}
_LATE = (
    f"no answer within {MEMBER_SECONDS:g} seconds; a member answers only while most of the cluster "
    "is there"
)
_ENDED = (
    "it ended the connection; a member that speaks TLS wants etcds://, and maybe cert and key; any "
    "other wants etcd://"
)
_ADVICE_OF_CONNECTIONS = {
    "WRONG_VERSION_NUMBER": _ENDED,
    "UNEXPECTED_EOF": _ENDED,
    "EndOfStream": _ENDED,
    "Broken pipe": _ENDED,
    "Connection reset": _ENDED,
    "Server disconnected": _ENDED,
    "CERTIFICATE_REQUIRED": "it wants a certificate of ours: name it with cert=PATH and key=PATH",
    "ALERT_BAD_CERTIFICATE": "it does not take our certificate, or wants one: look at cert and key",
    "ALERT_UNKNOWN_CA": "it does not know who signed our certificate: look at cert and key",
    "ALERT_CERTIFICATE_EXPIRED": "our certificate is expired: renew cert and key",
}

_LOGIN = "/v3/auth/authenticate"
_tokens: dict[Target, str] = {}
"""The token that each URL has: to log in costs etcd as much as hundreds of reads."""

_answered: dict[Target, int] = {}
"""The number of the member of each URL that answered last. A dead one costs seconds once only:
the lease of an entry may be as short."""


class MemberError(Exception):
    """A member cannot answer; another one may."""


class RefusedError(SourceError):
    """etcd answered that it will not, which each member would do."""


class Client:
    """A client of a cluster. ``name`` stands for its URL in messages.

    The member with the number ``first`` is asked first, else the one that answered last. The files
    of the URL are read here, so a client is for one conversation. Raises SourceError.
    """

    def __init__(self, target: Target, name: str, first: int | None = None) -> None:
        self.target = target
        self._name = name
        self._at = _answered.get(target, 0) if first is None else first
        self._problems: dict[str, list[str]] = {}
        self._http = httpx.AsyncClient(
            verify=self._from_files(lambda: context(target)),
            trust_env=False,
            timeout=None,  # noqa: S113 - each answer has its own
            limits=httpx.Limits(keepalive_expiry=_IDLE_SECONDS),
            headers={"Accept-Encoding": "identity"},
            cookies=NoCookies(),
        )

    async def __aenter__(self) -> Client:
        asyncio.get_running_loop().set_default_executor(LookUps())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def call(
        self, path: str, message: dict[str, Any], kind: type[Message], limit: int = MAX_MESSAGE
    ) -> Message:
        """The answer to a request, by the first member that has one. Raises SourceError."""
        self._problems.clear()
        for _ in self.target.members:
            try:
                answer = await self.ask(path, message, kind, limit)
            except MemberError as error:
                self._problems.setdefault(str(error), []).append(self.member)
                self._at = self.next
            else:
                _answered[self.target] = self._at
                return answer
        raise self._none()

    def _none(self, *more: str) -> SourceError:
        whose = (f"{', '.join(members)}: {why}" for why, members in self._problems.items())
        return self.failed("; ".join((*whose, *more)))

    async def within(self, seconds: float, work: Awaitable[Message]) -> Message:
        """The result of ``work``, or SourceError after so many seconds."""
        try:
            with anyio.fail_after(seconds):
                return await work
        except TimeoutError:
            raise self._none(f"no whole answer within {seconds:g} seconds") from None

    @property
    def member(self) -> str:
        """The base URL of the member that is asked."""
        return self.target.members[self._at]

    @property
    def next(self) -> int:
        """The number of the member after the one that is asked."""
        return (self._at + 1) % len(self.target.members)

    def failed(self, why: str) -> SourceError:
        return SourceError(f"{self._name}: {why}")

    @asynccontextmanager
    async def changes(self, message: dict[str, Any]) -> AsyncIterator[AsyncIterator[Changes]]:
        """The stream of one member, of what is no older than asked for. Raises MemberError."""
        start = {"create_request": message}
        async with self._answer("/v3/watch", start) as (response, scope):
            scope.deadline = inf
            yield self._streamed(response)

    async def _streamed(self, response: httpx.Response) -> AsyncIterator[Changes]:
        async for line in _lines(response):
            message = self._decoded(Streamed, line, response)
            if message.error is not None:
                raise self._refused(message.error)
            if message.result is not None:
                yield message.result
        raise MemberError("it ended the stream")

    async def ask(
        self, path: str, message: dict[str, Any], kind: type[Message], limit: int = MAX_MESSAGE
    ) -> Message:
        """The answer of the member. Raises MemberError, and SourceError as ``call`` does."""
        try:
            return await self._post(path, message, kind, limit)
        except RefusedError as error:
            if not self.target.user or not any(why in str(error) for why in _OLD_TOKEN):
                raise
            _tokens.pop(self.target, None)  # where another request has not done so meanwhile
            return await self._post(path, message, kind, limit)

    async def _headers(self, path: str) -> dict[str, str]:
        if not self.target.user or path == _LOGIN:
            return {}
        token = _tokens.get(self.target)
        if token is None:
            secret = self._from_files(lambda: password(self.target.password_file))
            login = {"name": self.target.user, "password": secret}
            token = (await self._post(_LOGIN, login, Authenticated)).token
            _tokens[self.target] = token
        return {"Authorization": token}

    def _from_files(self, read: Callable[[], Message]) -> Message:
        try:
            return read()
        except ValueError as error:
            raise self.failed(str(error)) from None

    async def _send(
        self, path: str, message: dict[str, Any], headers: dict[str, str]
    ) -> httpx.Response:
        url = f"{self.member}{path}"
        request = self._http.build_request("POST", url, content=encoded(message), headers=headers)
        return await self._http.send(request, stream=True)

    @asynccontextmanager
    async def _answer(
        self, path: str, message: dict[str, Any]
    ) -> AsyncIterator[tuple[httpx.Response, anyio.CancelScope]]:
        """The beginning of a good answer, and the time for the whole. Raises as ``ask`` does."""
        headers = await self._headers(path)
        try:
            with anyio.fail_after(MEMBER_SECONDS) as scope:
                async with aclosing(await self._send(path, message, headers)) as response:
                    if response.status_code != httpx.codes.OK:
                        raw = await self._body(response, MAX_MESSAGE, scope)
                        raise self._refusal(raw, response)
                    yield response, scope
        except _FAILED as error:
            raise MemberError(_why(error)) from None

    async def _post(
        self, path: str, message: dict[str, Any], kind: type[Message], limit: int = MAX_MESSAGE
    ) -> Message:
        async with self._answer(path, message) as (response, scope):
            raw = await self._body(response, limit, scope)
        return self._decoded(kind, raw, response)

    async def _body(
        self, response: httpx.Response, limit: int, scope: anyio.CancelScope
    ) -> bytearray:
        raw = bytearray()
        async for part in response.aiter_raw():
            raw += part
            scope.deadline += len(part) / BYTES_PER_SECOND
            if len(raw) > limit:
                raise self.failed(f"an answer of more than {limit} bytes, the most that rait reads")
        return raw

    def _decoded(
        self, kind: type[Message], raw: bytes | bytearray, response: httpx.Response
    ) -> Message:
        try:
            return decoded(kind, raw)
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            raise _no_etcd(raw, response) from None

    def _refusal(self, raw: bytearray, response: httpx.Response) -> Exception:
        failure = self._decoded(Failure, raw, response)
        return self._refused(failure) if _said(failure) else _no_etcd(raw, response)

    def _refused(self, failure: Failure) -> Exception:
        said = _said(failure)
        if (failure.code or failure.grpc_code) in _UNAVAILABLE:
            return MemberError(shown(said))
        advice = next((text for part, text in _ADVICE.items() if part in said), "")
        return RefusedError(f"{self._name}: etcd says {shown(said)}{advice and f'; {advice}'}")


async def _lines(response: httpx.Response) -> AsyncIterator[bytes]:
    """The lines of a body, as they come."""
    rest = bytearray()
    async for part in response.aiter_raw():
        *whole, last = part.split(b"\n")
        for line in whole:
            yield bytes(rest + line)
            rest.clear()
        rest += last
        if len(rest) > LONGEST_LINE:
            raise MemberError(f"a message of more than {LONGEST_LINE} bytes")


def _said(failure: Failure) -> str:
    return failure.message or failure.error


def _no_etcd(raw: bytes | bytearray, response: httpx.Response) -> MemberError:
    if b"HTTP request to an HTTPS server" in raw:
        return MemberError("it speaks TLS: write etcds:// in place of etcd://")
    if b"CommonName of client" in raw:
        return MemberError("where it has users, it takes no certificate with a name (CN) for cert")
    status = "" if response.status_code == httpx.codes.OK else f" (HTTP {response.status_code})"
    return MemberError(f"its answer{status} is not one of etcd's JSON gateway")


def _why(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return _LATE
    first = first_of(error)
    if isinstance(first, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {first.verify_message}; look at ca and the host"
    text = reason(first)[:MAX_SHOWN]
    return next((advice for part, advice in _ADVICE_OF_CONNECTIONS.items() if part in text), text)
