"""Speaks to the members of an etcd cluster, and goes on to the next one where one fails.

A read is linearizable: a member that has lost the others cannot answer it with what was true once.
What a member says counts only if it is whole: a message that is cut off is no JSON.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from functools import lru_cache
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
from rait.adapters.config.etcd.url import Target
from rait.domain.config.keytext import shown
from rait.domain.errors import SourceError

Message = TypeVar("Message")

MEMBER_SECONDS = 5.0
"""How long one member may take to begin its answer, before the next is asked."""

MAX_MESSAGE = 1024 * 1024
"""Bytes of an answer that is no list."""

_UNAUTHENTICATED = ("invalid auth token", "auth: revision in header is old")
_UNAVAILABLE = (4, 14)
"""Codes of gRPC: DEADLINE_EXCEEDED and UNAVAILABLE, as where a member has no leader."""

_ADVICE = {
    "database space exceeded": "etcd takes no more writes: compact and defragment it, raise "
    "--quota-backend-bytes if need be, and then run `etcdctl alarm disarm`",
    "permission denied": "the role of the user does not allow it",
    "user name is empty": "etcd wants a user: etcds://USER@HOST/PREFIX?password_file=PATH",
    "authentication failed": "look at the user and at the password_file",
}

_tokens: dict[tuple[tuple[str, ...], str, str], str] = {}
"""The token of each user at each cluster: to log in costs etcd as much as hundreds of reads."""


class MemberError(Exception):
    """A member cannot answer; another one may."""


class RefusedError(SourceError):
    """etcd answered that it will not, which each member would do."""


class Client:
    """A client of a cluster. ``name`` stands for its URL in messages."""

    def __init__(self, target: Target, name: str) -> None:
        self._target = target
        self._name = name
        self._at = 0
        self._http = httpx.AsyncClient(
            verify=_trust(target, name),
            trust_env=False,
            timeout=httpx.Timeout(MEMBER_SECONDS),
            headers={"Accept-Encoding": "identity"},
        )

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def call(
        self, path: str, message: dict[str, Any], kind: type[Message], limit: int = MAX_MESSAGE
    ) -> Message:
        """The answer to a request, by the first member that has one. Raises SourceError."""
        problems = []
        for _ in self._target.members:
            try:
                return await self.ask(path, message, kind, limit)
            except MemberError as error:
                problems.append(f"{self.member}: {error}")
                self.move_on()
        raise self.failed("; ".join(problems))

    @property
    def member(self) -> str:
        """The base URL of the member that is asked."""
        return self._target.members[self._at]

    def move_on(self) -> None:
        """Ask the next member from now on."""
        self._at = (self._at + 1) % len(self._target.members)

    def failed(self, why: str) -> SourceError:
        return SourceError(f"{self._name}: {why}")

    @asynccontextmanager
    async def changes(self, message: dict[str, Any]) -> AsyncIterator[AsyncIterator[Changes]]:
        """The stream of one member, of what is no older than asked for. Raises MemberError."""
        try:
            async with self._http.stream(
                "POST",
                f"{self.member}/v3/watch",
                content=encoded({"create_request": message}),
                headers=await self._headers(),
                timeout=httpx.Timeout(MEMBER_SECONDS, read=None),
            ) as response:
                if response.status_code != httpx.codes.OK:
                    raise self._refusal(await self._body(response, MAX_MESSAGE))
                yield self._streamed(response)
        except httpx.HTTPError as error:
            raise MemberError(_why(error)) from None

    async def _streamed(self, response: httpx.Response) -> AsyncIterator[Changes]:
        async for line in _lines(response):
            message = self._decoded(Streamed, line)
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
            return await self._post(path, message, kind, limit, await self._headers())
        except RefusedError as error:
            if not self._target.user or not any(why in str(error) for why in _UNAUTHENTICATED):
                raise
            self.log_out()
            return await self._post(path, message, kind, limit, await self._headers())

    def log_out(self) -> None:
        """Forget the token, so that the next call logs in."""
        _tokens.pop(self._whose, None)

    @property
    def _whose(self) -> tuple[tuple[str, ...], str, str]:
        return self._target.members, self._target.user, self._target.password_file

    async def _headers(self) -> dict[str, str]:
        if not self._target.user:
            return {}
        if self._whose not in _tokens:
            login = {"name": self._target.user, "password": self._password()}
            path = "/v3/auth/authenticate"
            answer = await self._post(path, login, Authenticated, MAX_MESSAGE, {})
            _tokens[self._whose] = answer.token
        return {"Authorization": _tokens[self._whose]}

    def _password(self) -> str:
        path = self._target.password_file
        try:
            with open(path, encoding="utf-8") as file:
                return file.readline(4096).rstrip("\r\n")
        except (OSError, UnicodeError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not text in UTF-8"
            raise self.failed(f"the password file {path} cannot be read: {why}") from None

    async def _post(
        self,
        path: str,
        message: dict[str, Any],
        kind: type[Message],
        limit: int,
        headers: dict[str, str],
    ) -> Message:
        try:
            async with self._http.stream(
                "POST", f"{self.member}{path}", content=encoded(message), headers=headers
            ) as response:
                raw = await self._body(response, limit)
        except httpx.HTTPError as error:
            raise MemberError(_why(error)) from None
        if response.status_code != httpx.codes.OK:
            raise self._refusal(raw)
        return self._decoded(kind, raw)

    async def _body(self, response: httpx.Response, limit: int) -> bytes:
        raw = bytearray()
        async for part in response.aiter_raw():
            raw += part
            if len(raw) > limit:
                raise self.failed(f"an answer of more than {limit} bytes, the most that rait reads")
        return bytes(raw)

    def _decoded(self, kind: type[Message], raw: bytes) -> Message:
        try:
            return decoded(kind, raw)
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            raise MemberError("its answer is not one of etcd's JSON gateway") from None

    def _refusal(self, raw: bytes) -> Exception:
        return self._refused(self._decoded(Failure, raw))

    def _refused(self, failure: Failure) -> Exception:
        said = failure.message or failure.error
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
        if len(rest) > _LONGEST_LINE:
            raise MemberError("a message that is too large")


_LONGEST_LINE = 32 * MAX_MESSAGE


def _trust(target: Target, name: str) -> ssl.SSLContext | bool:
    if not target.members[0].startswith("https:"):
        return False
    try:
        return _context(target.ca, target.cert, target.key)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        files = ", ".join(path for path in (target.ca, target.cert, target.key) if path)
        raise SourceError(f"{name}: TLS cannot begin with {files}: {error}") from None


@lru_cache(maxsize=1)
def _context(ca: str, cert: str, key: str) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=ca or None)
    if cert:
        context.load_cert_chain(cert, key)
    return context


def _why(error: httpx.HTTPError) -> str:
    if isinstance(error, httpx.TimeoutException):
        return f"no answer within {MEMBER_SECONDS:g} seconds"
    return str(error) or type(error).__name__


async def at_most(seconds: float, name: str, work: Awaitable[Message]) -> Message:
    """The result of ``work``, or SourceError after so many seconds."""
    try:
        with anyio.fail_after(seconds):
            return await work
    except TimeoutError:
        raise SourceError(f"{name}: no whole answer within {seconds:g} seconds") from None
