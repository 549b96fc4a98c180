"""A real cluster of Debian's etcd, of which each member can be killed, paused and started again.

It listens on loopback of one namespace; a ``Door`` lets those in another namespace in. Its data is
in memory, so that elections do not wait for a disk that others use.
"""

from __future__ import annotations

import base64
import http.client
import json
import random
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, NamedTuple

from tests.integration import machine
from tests.integration.tls import Authority
from tests.integration.watching import until
from tests.tiers import need

ROOT = "root"
"""The name and the password of the user who may do all, where there are users."""

_PORTS = iter(random.sample(range(20000, 32000), 12000))
"""Below those that the system gives to whoever asks for any, so a member that is dead keeps its;
and none is given to two members."""

_ANSWER_SECONDS = 20.0
"""Longer than etcd itself waits for its other members: what is given up before may be done yet."""


def free_port(netns: str | None = None) -> int:
    """A TCP port of loopback at which nobody listens."""
    while True:
        port = next(_PORTS)
        with machine.inside(netns) if netns else nullcontext(), socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return port


class RefusedError(Exception):
    """etcd answered that it will not."""


class Member:
    """One etcd. Its directory and its ports stay its own, whatever happens to its process."""

    def __init__(self, name: str, directory: Path, netns: str | None, options: list[str]) -> None:
        self.name = name
        self.directory = directory
        self.port, self.peer_port = free_port(netns), free_port(netns)
        self.is_paused = False
        self._netns = netns
        self._options = options
        self._process: subprocess.Popen[str] | None = None

    def start(self, *options: str, scheme: str = "http") -> None:
        client, peer = f"{scheme}://127.0.0.1:{self.port}", f"http://127.0.0.1:{self.peer_port}"
        words = [need("etcd", "etcd-server"), "--name", self.name, "--data-dir", f"{self.data}"]
        words += ["--listen-client-urls", client, "--advertise-client-urls", client]
        words += ["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer]
        with self.log.open("a") as log:
            self._process = machine.start(
                [*words, *self._options, *options],
                self._netns,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    @property
    def data(self) -> Path:
        return self.directory / "data"

    @property
    def log(self) -> Path:
        return self.directory / "log"

    @property
    def is_alive(self) -> bool:
        """Whether its process is there, and not paused."""
        running = self._process is not None and self._process.poll() is None
        return running and not self.is_paused

    def send(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def pause(self) -> None:
        """Let it do nothing, with all its connections open."""
        assert self._process is not None
        machine.stop(self._process.pid)
        self.is_paused = True

    def wake(self) -> None:
        self.send(signal.SIGCONT)
        self.is_paused = False

    def kill(self) -> None:
        self.end(signal.SIGKILL)

    def end(self, number: int = signal.SIGTERM) -> None:
        """End it, and wait until it is gone."""
        if self._process is None:
            return
        if self.is_paused and number != signal.SIGKILL:
            self.wake()
        self._process.send_signal(number)
        self._process.wait()
        self._process, self.is_paused = None, False


class Key(NamedTuple):
    """What is under a key."""

    value: str
    revision: int
    lease: int


class Cluster:
    """Members of one cluster, and an administrator of it, who waits for them.

    With ``authority`` it speaks TLS, and wants certificates of the authority from its clients. With
    ``quota`` it holds only so many bytes (etcd needs some 100,000 to begin with).
    """

    def __init__(
        self,
        size: int = 3,
        netns: str | None = None,
        authority: Authority | None = None,
        quota: int = 0,
        options: Sequence[str] = (),
    ) -> None:
        self._netns = netns
        self._directory = Path(tempfile.mkdtemp(prefix="rait-etcd-", dir=_memory()))
        self._authority = authority
        self._token = ""
        shared = ["--heartbeat-interval", "50", "--election-timeout", "500", "--bcrypt-cost", "4"]
        shared += ["--logger", "zap", "--log-level", "warn", *options]
        if quota:
            shared += ["--quota-backend-bytes", f"{quota}"]
        if authority is not None:
            # The gateway speaks to its own member by the member's certificate.
            cert, key = authority.certificate("server", "127.0.0.1", "localhost", "::1")
            shared += ["--client-cert-auth", "--trusted-ca-file", f"{authority.path}"]
            shared += ["--cert-file", f"{cert}", "--key-file", f"{key}"]
        self.members = [self._member(f"m{index}", shared) for index in range(size)]

    def _member(self, name: str, options: list[str]) -> Member:
        directory = self._directory / name
        directory.mkdir()
        return Member(name, directory, self._netns, options)

    @property
    def scheme(self) -> str:
        return "http" if self._authority is None else "https"

    @property
    def hosts(self) -> str:
        """The members, as in a URL of etcd."""
        return ",".join(f"127.0.0.1:{member.port}" for member in self.members)

    def url(self, prefix: str, hosts: str = "", user: str = "", **query: object) -> str:
        """The URL of a prefix, for rait."""
        scheme = "etcd" if self._authority is None else "etcds"
        asked = "&".join(f"{key}={value}" for key, value in query.items())
        whose = f"{user}@" if user else ""
        return f"{scheme}://{whose}{hosts or self.hosts}{prefix}{asked and f'?{asked}'}"

    def start(self) -> None:
        """Start all members, as a new cluster, and wait for them."""
        peers = [f"{each.name}=http://127.0.0.1:{each.peer_port}" for each in self.members]
        self._first = ["--initial-cluster", ",".join(peers)]
        self.heal()

    def heal(self) -> None:
        """Wake and start whoever is not there, and wait until all take part."""
        for member in self.members:
            if member.is_paused:
                member.wake()
            if not member.is_alive:
                self.restart(member)
        self.ready()
        assert all(member.is_alive for member in self.members), self.logs()

    def restart(self, member: Member) -> None:
        """Start a member, with its data if it has any."""
        member.start(*self._first, scheme=self.scheme)

    def ready(self) -> None:
        """Wait until each member that is alive answers a linearizable read."""
        for member in self.members:
            until(lambda member=member: not member.is_alive or self._answers(member), self.logs)

    def _answers(self, member: Member) -> bool:
        try:
            self.ask(member, "/v3/kv/range", {"key": raw("ready")})
        except RefusedError as error:
            return "user name is empty" in str(error) or "permission denied" in str(error)
        except (OSError, http.client.HTTPException):
            return False
        return True

    def logs(self) -> str:
        """What the members have logged, for a test that fails."""
        return "\n".join(f"{each.name}: {each.log.read_text()[-2000:]}" for each in self.members)

    def restore(self, snapshot: Path) -> None:
        """Be what the cluster was at a snapshot, which ``ctl("snapshot", "save", ...)`` made."""
        for member in self.members:
            member.kill()
            shutil.rmtree(member.data)
            peer = f"http://127.0.0.1:{member.peer_port}"
            words = ["etcdctl", "snapshot", "restore", f"{snapshot}", "--name", member.name]
            words += ["--data-dir", f"{member.data}", "--initial-advertise-peer-urls", peer]
            machine.run([*words, *self._first])
        self.heal()

    def clear(self) -> None:
        """Delete all keys."""
        self.call("/v3/kv/deleterange", {"key": raw(b"\0"), "range_end": raw(b"\0")})

    def remove(self) -> None:
        """Kill all members, and remove what they have."""
        for member in self.members:
            member.kill()
        shutil.rmtree(self._directory)

    @property
    def leader(self) -> Member:
        """The member that leads, once one does."""
        return until(self._leader, self.logs)

    def _leader(self) -> Member | None:
        for member in self.members:
            if member.is_alive:
                with suppress(OSError, http.client.HTTPException, RefusedError):
                    status = self.ask(member, "/v3/maintenance/status", {})
                    if status.get("leader") == status["header"]["member_id"]:
                        return member
        return None

    def ask(self, member: Member, path: str, message: dict[str, Any]) -> dict[str, Any]:
        """The answer of one member. Raises RefusedError, OSError and http.client.HTTPException."""
        with machine.inside(self._netns) if self._netns else nullcontext():
            plain = socket.create_connection(("127.0.0.1", member.port), timeout=_ANSWER_SECONDS)
        connection = http.client.HTTPConnection("127.0.0.1", member.port)
        connection.sock = plain
        try:
            if self._authority is not None:
                connection.sock = self._authority.context("admin").wrap_socket(plain)
            headers = {"Authorization": self._token} if self._token else {}
            connection.request("POST", path, json.dumps(message), headers)
            response = connection.getresponse()
            answer = json.loads(response.read())
        finally:
            connection.close()
            plain.close()
        if response.status != 200:
            raise RefusedError(answer["error"])
        return answer

    def call(self, path: str, message: dict[str, Any]) -> dict[str, Any]:
        """The answer of the first member that has one; waits for one. Raises RefusedError.

        What was asked for may be done more than once.
        """
        return until(lambda: self._call(path, message), self.logs)

    def _call(self, path: str, message: dict[str, Any]) -> dict[str, Any] | None:
        for member in self.members:
            if member.is_alive:
                try:
                    return self.ask(member, path, message)
                except (OSError, http.client.HTTPException, ssl.SSLError):
                    pass
                except RefusedError as error:
                    if not any(why in str(error) for why in _PASSING):
                        raise
        return None

    def put(self, key: str, value: str | bytes, lease: int = 0) -> int:
        """Put a value, and give the revision that this made."""
        message = {"key": raw(key), "value": raw(value), "lease": lease}
        return int(self.call("/v3/kv/put", message)["header"]["revision"])

    def once(self, counter: str, times: int, operation: dict[str, Any]) -> int:
        """Do what is the write after so many ``times``, which ``counter`` counts, and just once.

        A write that is tried again may be done twice, and the second time long after.
        """
        own = {"key": raw(counter)}
        compare = {**own, "target": "VERSION", "result": "EQUAL", "version": times}
        writes = [operation, {"request_put": own}]
        answer = self.call("/v3/kv/txn", {"compare": [compare], "success": writes})
        if not answer.get("succeeded"):
            found = self.call("/v3/kv/range", own)["kvs"][0]
            assert int(found["version"]) == times + 1
            return int(found["mod_revision"])
        return int(answer["header"]["revision"])

    def delete(self, key: str, prefix: bool = False) -> int:
        """Delete a key, or all that begin so, and give the newest revision."""
        message = {"key": raw(key), **({"range_end": raw(_end(key))} if prefix else {})}
        return int(self.call("/v3/kv/deleterange", message)["header"]["revision"])

    def keys(self, prefix: str) -> dict[str, Key]:
        """What there is under a prefix."""
        message = {"key": raw(prefix), "range_end": raw(_end(prefix))}
        found = self.call("/v3/kv/range", message).get("kvs", [])
        return {
            base64.b64decode(each["key"]).decode(): Key(
                base64.b64decode(each.get("value", "")).decode(),
                int(each["mod_revision"]),
                int(each.get("lease", 0)),
            )
            for each in found
        }

    def grant(self, seconds: int) -> int:
        """A lease of so many seconds. etcd grants no shorter one than its elections allow: 2 s."""
        return int(self.call("/v3/lease/grant", {"TTL": seconds})["ID"])

    def put_for(self, seconds: int, key: str, value: str) -> None:
        """Put a value whose lease nobody keeps alive."""
        while True:
            try:
                self.put(key, value, self.grant(seconds))
            except RefusedError as error:
                if "lease not found" not in str(error):  # it has ended already
                    raise
            else:
                return

    def revoke(self, lease: int) -> None:
        """End a lease now, as its end by itself does."""
        with suppress(RefusedError):  # done already, at the first of two tries
            self.call("/v3/lease/revoke", {"ID": lease})

    @property
    def revision(self) -> int:
        return int(self.call("/v3/kv/range", {"key": raw("revision")})["header"]["revision"])

    def compact(self, revision: int = 0) -> None:
        """Forget what was before a revision, or before the newest one."""
        message = {"revision": revision or self.revision, "physical": True}
        with suppress(RefusedError):  # done already
            self.call("/v3/kv/compaction", message)

    def enable_auth(self) -> None:
        """Have users from now on: ROOT, who may do all, and those of ``add_user``."""
        self.call("/v3/auth/user/add", {"name": ROOT, "password": ROOT})
        self.call("/v3/auth/user/grant", {"user": ROOT, "role": ROOT})
        self.call("/v3/auth/enable", {})
        self.log_in()

    def disable_auth(self) -> None:
        self.call("/v3/auth/disable", {})
        self._token = ""

    def log_in(self) -> None:
        """Anew, as where all members were restarted, or a user was changed."""
        self._token = ""
        login = {"name": ROOT, "password": ROOT}
        self._token = self.call("/v3/auth/authenticate", login)["token"]

    def add_user(self, name: str, password: str, **rights: str) -> None:
        """A user with a role of the same name: ``read`` and ``write`` name prefixes or keys.

        A text that ends in "/" is a prefix.
        """
        self.call("/v3/auth/role/add", {"name": name})
        for kind, key in rights.items():
            self.allow(name, kind, key)
        self.call("/v3/auth/user/add", {"name": name, "password": password})
        self.call("/v3/auth/user/grant", {"user": name, "role": name})

    def allow(self, role: str, kind: str, key: str) -> None:
        permission = {"permType": kind.upper(), "key": raw(key)}
        if key.endswith("/"):
            permission["range_end"] = raw(_end(key))
        self.call("/v3/auth/role/grant", {"name": role, "perm": permission})

    def ctl(self, *arguments: str, user: str = "", members: Sequence[Member] = ()) -> str:
        """What etcdctl(1) prints, which must succeed."""
        asked = members or self.members
        endpoints = ",".join(f"{self.scheme}://127.0.0.1:{each.port}" for each in asked)
        words = [need("etcdctl", "etcd-client"), "--endpoints", endpoints, *CTL_PATIENCE]
        if self._authority is not None:
            cert, key = self._authority.certificate("admin")
            words += ["--cacert", f"{self._authority.path}", "--cert", f"{cert}", "--key", f"{key}"]
        if user:
            words += ["--user", user]
        return machine.run([*words, *arguments], self._netns)


CTL_PATIENCE = ("--dial-timeout", "60s", "--command-timeout", "120s")
"""For etcdctl(1), which by itself waits no longer than 5 s."""

_PASSING = (
    *("request timed out", "context deadline exceeded", "no leader", "leader changed"),
    *("too many requests", "not capable"),
)
"""What etcd answers while its members are about to agree."""


def _memory() -> str | None:
    return "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108


def raw(value: str | bytes) -> str:
    return base64.b64encode(value.encode() if isinstance(value, str) else value).decode()


def _end(prefix: str) -> str:
    return prefix[:-1] + chr(ord(prefix[-1]) + 1)


@contextmanager
def cluster(**options: Any) -> Iterator[Cluster]:
    """A cluster that is ready, and is gone with its block. The options are those of ``Cluster``."""
    made = Cluster(**options)
    try:
        made.start()
        yield made
    finally:
        made.remove()


class Door:
    """Hands connections on to a port of this namespace's loopback, from its own port in another.

    It can drop them all, as a network between them does, and while ``is_shut`` it takes no more.
    """

    def __init__(self, port: int, netns: str | None = None, host: str = "127.0.0.1") -> None:
        self._to = port
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._is_over = False
        self.is_shut = False
        kind = socket.AF_INET6 if ":" in host else socket.AF_INET
        with machine.inside(netns) if netns else nullcontext():
            self._listener = socket.create_server((host, 0), family=kind, backlog=64)
        self.host = f"[{host}]" if ":" in host else host
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def drop(self) -> None:
        """Cut all connections."""
        with self._lock:
            for each in self._open:
                with suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._is_over = True
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        self.drop()

    def _serve(self) -> None:
        with suppress(OSError):
            while not self._is_over:
                threading.Thread(target=self._hand_on, args=(self._listener.accept()[0],)).start()

    def _hand_on(self, near: socket.socket) -> None:
        if self.is_shut:
            near.close()
            return
        with near, suppress(OSError), socket.create_connection(("127.0.0.1", self._to)) as far:
            with self._lock:
                self._open |= {near, far}
            if self.is_shut or self._is_over:  # since we looked, so that nobody cuts this one
                return
            back = threading.Thread(target=_pump, args=(far, near))
            back.start()
            _pump(near, far)
            back.join()
            with self._lock:
                self._open -= {near, far}


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    for each in (source, sink):
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)


class Doors:
    """A door to each member of a cluster, in one namespace."""

    def __init__(self, cluster: Cluster, netns: str | None = None, host: str = "127.0.0.1") -> None:
        self._all = [Door(member.port, netns, host) for member in cluster.members]
        self.hosts = ",".join(f"{each.host}:{each.port}" for each in self._all)
        """The members, as in a URL of etcd, as they are found in the namespace."""

    def drop(self) -> None:
        """Cut all connections."""
        for each in self._all:
            each.drop()

    def shut(self, is_shut: bool = True) -> None:
        """Let nobody in any more, or let them in again."""
        for each in self._all:
            each.is_shut = is_shut
            if is_shut:
                each.drop()

    def close(self) -> None:
        for each in self._all:
            each.close()


@contextmanager
def doors(cluster: Cluster, netns: str | None = None, host: str = "127.0.0.1") -> Iterator[Doors]:
    """Doors that are gone with their block."""
    made = Doors(cluster, netns, host)
    try:
        yield made
    finally:
        made.close()
