"""A small Hugging Face Hub on 127.0.0.1, for tests with the real client.

It supports push, pull, list, tags and their failures. The client reads ``HF_ENDPOINT`` when it is
imported: `loopback_hub` sets it before that in the tests, and `benchmarks/hub.py` in a new process.
"""

from __future__ import annotations

import json
import re
import socket
import struct
import sys
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast
from urllib.parse import parse_qs, unquote, urlsplit

from loopback_api import ROUTES, Refuse, Repo, is_large

__all__ = ["OWNER", "READER", "Fault", "LoopbackHub"]

OWNER = "hf_owner_token"  # the token that may write; READER may only read
READER = "hf_reader_token"


@dataclass
class Fault:
    """A fault of the next `times` requests that match, after `skip` requests without it."""

    path: str
    method: str | None = None
    status: int | None = None  # answer with this status (and headers) instead
    code: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = (
        None  # send (or, for an upload, read) this many bytes of the body, then hang up
    )
    reset: bool = False  # hang up with a TCP reset, not an orderly close
    flip: int | None = None  # flip a bit of the byte at this offset of the file, length unchanged
    lose_answer: bool = False  # do the work, then hang up without answering
    die: bool = False  # the whole server goes away
    back_after: float | None = None  # ... and comes back after so many seconds
    times: int | None = 1  # None: always
    skip: int = 0
    hits: int = 0

    def applies(self, method: str, path: str) -> bool:
        if self.method not in (None, method) or not re.search(self.path, path):
            return False
        if self.skip:
            self.skip -= 1
            return False
        if self.times is not None and self.hits >= self.times:
            return False
        self.hits += 1
        return True


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, hub: LoopbackHub, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler, bind_and_activate=False)
        self.hub = hub
        self.open: set[socket.socket] = set()
        self.server_bind()  # the port is ours from here on, but nobody listens yet

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that disconnect; any other error is a bug of this file."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            self.hub.errors.append(error)


class LoopbackHub:
    """The Hub: repositories, large files, pending faults and past requests."""

    def __init__(self) -> None:
        self.lock, self.changing = threading.RLock(), threading.RLock()
        self.servers: list[Server] = [Server(self), Server(self)]
        self.ports = [server.server_address[1] for server in self.servers]
        self.endpoint = f"http://127.0.0.1:{self.ports[0]}"
        self.storage = f"http://127.0.0.1:{self.ports[1]}"  # another origin, as the real one's
        self.threads: list[threading.Thread] = []
        self.dying: threading.Thread | None = None
        self.reset()

    def reset(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.large: dict[str, bytes] = {}
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str]] = []
        self.errors: list[BaseException | None] = []
        self.tokens = {OWNER: "owner", READER: "reader"}

    def start(self) -> None:
        with self.changing:
            for server in self.servers:
                server.server_activate()
                serve = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
                serve.start()
                self.threads.append(serve)

    def stop(self) -> None:
        """Close all connections and keep the ports reserved."""
        with self.changing:
            for server in self.servers if self.threads else []:
                server.shutdown()
            for thread in self.threads:
                thread.join()
            self.threads = []
            for server in self.servers:
                server.server_close()
            for connection in [each for server in self.servers for each in list(server.open)]:
                hang_up(connection)
            self.servers = [Server(self, port) for port in self.ports]

    def die(self, back_after: float | None) -> None:
        """Stop during a response, and optionally start again."""

        def run() -> None:
            self.stop()
            if back_after is not None:
                time.sleep(back_after)
                self.start()

        self.dying = threading.Thread(target=run)
        self.dying.start()

    def close(self) -> None:
        for server in self.servers:
            server.server_close()

    def fail(self, path: str, **what: Any) -> Fault:
        """Add a fault for requests whose ``/path`` matches a regular expression (see `Fault`)."""
        self.faults.append(Fault(path, **what))
        return self.faults[-1]

    def add(self, repo_id: str, files: dict[str, bytes] | None = None, **options: Any) -> str:
        """Commit files without the client, create the repository if needed, return the commit."""
        with self.lock:
            repo = self.repos.setdefault(repo_id, Repo(**options))
            if not repo.history:
                repo.commit({".gitattributes": (b"*.safetensors filter=lfs\n", False)}, "main")
            if files:
                new = {
                    path: (data, is_large(path, data, len(data))) for path, data in files.items()
                }
                repo.commit({**repo.commits[repo.branches["main"]], **new}, "main")
            return repo.branches["main"]

    def files(self, repo_id: str, revision: str = "main") -> dict[str, bytes]:
        repo = self.repos[repo_id]
        return {path: data for path, (data, _) in repo.commits[repo.resolve(revision)].items()}

    def fetched(self) -> list[str]:
        """Return the names of the downloaded files, in order."""
        asked = (path for method, path in self.requests if method == "GET")
        pattern = r"/(?:[^/]+/[^/]+/resolve/[^/]+|lfs/[0-9a-f]{64})/(.+)"
        return [found[1] for path in asked if (found := re.fullmatch(pattern, path))]


def hang_up(connection: socket.socket, reset: bool = False) -> None:
    try:
        if reset:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()
        else:
            connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass


class Handler(BaseHTTPRequestHandler):
    """One connection: finds the route, applies faults, sends what the route returns."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # one segment per answer

    def setup(self) -> None:
        super().setup()
        self.hub = cast(Server, self.server).hub
        cast(Server, self.server).open.add(self.connection)
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)

    def finish(self) -> None:
        cast(Server, self.server).open.discard(self.connection)
        super().finish()

    def log_message(self, *args: Any) -> None:
        pass

    def serve(self) -> None:
        url = urlsplit(self.path)
        self.query = parse_qs(url.query)
        self.fault = None
        with self.hub.lock:
            self.hub.requests.append((self.command, unquote(url.path)))
            for fault in self.hub.faults:
                if fault.applies(self.command, unquote(url.path)):
                    self.fault = fault
                    break
        try:
            self.apply_fault()
            self.body = self.read_body()
            for method, pattern, function in ROUTES:
                if method == self.command and (match := pattern.fullmatch(url.path)):
                    groups = {
                        name: unquote(value) for name, value in match.groupdict().items() if value
                    }
                    with self.hub.lock:
                        result = function(self, **groups)
                    break
            else:
                raise Refuse(404, message=f"no route for {self.command} {url.path}")
            if self.fault and self.fault.lose_answer:
                raise ConnectionAbortedError
            status, payload, headers = result if isinstance(result, tuple) else (200, result, {})
        except Refuse as no:
            status, payload, headers = no.status, {"error": no.message}, dict(no.headers)
            headers |= {"X-Error-Code": no.code} if no.code else {}
            headers |= {"X-Error-Message": no.message} if no.message else {}
        except ConnectionAbortedError:
            self.close_connection = True
            return hang_up(self.connection, bool(self.fault and self.fault.reset))
        self.answer(status, payload, headers)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = serve

    def apply_fault(self) -> None:
        fault = self.fault
        if fault is None:
            return
        if fault.die:
            self.hub.die(fault.back_after)
            time.sleep(0.5)  # the connection is cut while the client waits
            raise ConnectionAbortedError
        if fault.cut is not None and self.command in ("PUT", "POST"):
            self.rfile.read(min(fault.cut, int(self.headers.get("Content-Length", 0))))
            raise ConnectionAbortedError
        if fault.status is not None:
            self.close_connection = True  # the body was not read
            raise Refuse(fault.status, fault.code, "as the test asked", **fault.headers)

    def read_body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def json(self) -> Any:
        return json.loads(self.body)

    def answer(self, status: int, payload: Any, headers: dict[str, str]) -> None:
        body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        cut = self.fault.cut if self.fault else None
        if isinstance(payload, bytes):  # a file: flips and ranges are of its own offsets
            if self.fault and self.fault.flip is not None:
                at = self.fault.flip % len(body)
                body = body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]
            if found := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
                first, last = int(found[1]), int(found[2] or len(body) - 1)
                headers = {**headers, "Content-Range": f"bytes {first}-{last}/{len(body)}"}
                status, body = 206, body[first : last + 1]
        self.send_response(status)
        if self.close_connection:
            self.send_header("Connection", "close")
        for name, value in {"Content-Type": "application/json", **headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body if cut is None else body[:cut])
        self.wfile.flush()
        if cut is not None and self.command == "GET":
            self.close_connection = True
            hang_up(self.connection, self.fault.reset if self.fault else False)

    def user(self, write: bool = False) -> str | None:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in self.hub.tokens:
            raise Refuse(401, message="Invalid credentials in Authorization header")
        if write and not token:
            raise Refuse(401, message="Invalid username or password.")
        if write and self.hub.tokens[token] != "owner":
            raise Refuse(403, message="You don't have the rights to write here")
        return self.hub.tokens.get(token)

    def repo(self, name: str, write: bool = False) -> Repo:
        user = self.user(write)
        repo = self.hub.repos.get(name)
        if repo is None or (repo.private and user != "owner"):
            raise Refuse(404 if user else 401, "RepoNotFound", "Repository not found")
        return repo
