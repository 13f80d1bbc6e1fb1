"""The Hub's own client over a Hub in memory: no request leaves the process.

Import this module before anything imports huggingface_hub, which reads its variables then.
"""

from __future__ import annotations

import atexit
import base64
import hashlib
import importlib
import json
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote

import pytest
import torch

_HOME = tempfile.mkdtemp(prefix="nfaug-hub-")
atexit.register(shutil.rmtree, _HOME, ignore_errors=True)
for name in [name for name in os.environ if name.startswith(("HF_", "HUGGING"))]:
    del os.environ[name]  # a developer's own token, cache or offline switch has no place here
os.environ |= {
    "HF_ENDPOINT": "http://127.0.0.1:9",
    "HF_HOME": _HOME,
    "HF_HUB_DISABLE_XET": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}

from huggingface_hub import constants, get_session, set_client_factory  # noqa: E402

import nfaug  # noqa: E402
from nfaug.checkpoint.checkpoint import Checkpoint, CheckpointConfig  # noqa: E402
from nfaug.classes.gaussians import ClassGaussians  # noqa: E402
from nfaug.hub import push_to_hub  # noqa: E402
from tools.nfa import NAMES, batch_of  # noqa: E402
from tools.nfa import checkpoint as parts  # noqa: E402

__all__ = [
    "OWNER",
    "REPO",
    "RUNTIME",
    "FakeHub",
    "augmented",
    "hub",
    "made",
    "mine",
    "pushed",
    "served",
]

OWNER = "hf_owner_token"  # the only token that may write or read private repositories
REPO = "owner/flow"
RUNTIME = ["config.json", "gaussians.safetensors", "model.safetensors", "pca.safetensors"]
_DEFAULT = get_session()
httpx: Any = importlib.import_module(type(_DEFAULT).__module__.partition(".")[0])  # or its heir


class Refused(Exception):
    def __init__(self, status: int, code: str = "") -> None:
        self.status, self.code = status, code


@dataclass
class Repo:
    """Files of each commit; branches and tags are names of commits."""

    private: bool = False
    gated: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)

    def commit(self, files: dict[str, bytes], branch: str = "main") -> str:
        sha = hashlib.sha1(repr((len(self.commits), sorted(files.items()))).encode()).hexdigest()
        self.commits[sha], self.names[branch] = files, sha
        return sha

    def resolve(self, revision: str) -> str:
        sha = self.names.get(revision, revision)
        if sha not in self.commits:
            raise Refused(404, "RevisionNotFound")
        return sha


@dataclass
class FakeHub:
    """Repositories in memory, the requests so far, and faults to come.

    `fail` maps a pattern of paths to a status, to an exception that the request raises, or to a
    function that answers, given the hub and the request; `damage` maps a file's name to the number
    of downloads that flip a bit.
    """

    repos: dict[str, Repo] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    fail: dict[str, Any] = field(default_factory=dict)
    damage: dict[str, int] = field(default_factory=dict)
    up: bool = True

    def add(self, name: str, files: dict[str, bytes], **flags: bool) -> None:
        """Commit these files beside those that are there."""
        repo = self.repos.setdefault(name, Repo(**flags))
        before = repo.commits[repo.names["main"]] if repo.names else {}
        repo.commit({**before, **files})

    def files(self, name: str, revision: str = "main") -> dict[str, bytes]:
        repo = self.repos[name]
        return repo.commits[repo.resolve(revision)]

    def fetched(self) -> list[str]:
        """Names of the files that were downloaded."""
        found = (re.fullmatch(r"GET /[^/]+/[^/]+/resolve/[^/]+/(.+)", r) for r in self.requests)
        return sorted({match[1] for match in found if match})

    def answer(self, request: Any) -> Any:
        path = unquote(request.url.path)
        self.requests.append(f"{request.method} {path}")
        if not self.up:
            raise httpx.ConnectError("no network", request=request)
        for pattern, fault in self.fail.items():
            if re.search(pattern, path):
                if isinstance(fault, BaseException):
                    raise fault
                if callable(fault):
                    return fault(self, request)
                if isinstance(fault, bytes):
                    return httpx.Response(200, content=fault)
                return httpx.Response(fault, json={"error": "as asked\x1b[31m"})
        return self.true_answer(request)

    def true_answer(self, request: Any) -> Any:
        path = unquote(request.url.path)
        owner = request.headers.get("authorization") == f"Bearer {OWNER}"
        try:
            for methods, route, function in ROUTES:
                if request.method in methods and (found := re.fullmatch(route, path)):
                    return self._call(function, request, owner, **found.groupdict())
            raise AssertionError(f"the tests need no {request.method} {path}")
        except Refused as error:
            headers = {"X-Error-Code": error.code} if error.code else {}
            return httpx.Response(error.status, json={"error": "refused"}, headers=headers)

    def _call(self, function: Any, request: Any, owner: bool, **found: str) -> Any:
        repo = None
        if name := found.pop("repo", None):
            repo = self.repos.get(name)
            if repo is None or (repo.private and not owner):
                raise Refused(404 if owner else 401, "RepoNotFound")
            if repo.gated and "resolve" in request.url.path:
                raise Refused(403, "GatedRepo")
        if request.method == "POST" and not owner:
            raise Refused(401)
        result = function(self, request, repo, **({"name": name} if name else {}), **found)
        return result if isinstance(result, httpx.Response) else httpx.Response(200, json=result)


def _entry(path: str, data: bytes) -> dict[str, Any]:
    entry = {"type": "file", "path": path, "size": len(data), "oid": _git(data)}
    if path.endswith(".safetensors"):
        sha = hashlib.sha256(data).hexdigest()
        entry["lfs"] = {"oid": sha, "sha256": sha, "size": len(data), "pointerSize": 134}
    return entry


def _git(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _whoami(hub: FakeHub, request: Any, repo: None) -> Any:
    if request.headers.get("authorization") != f"Bearer {OWNER}":
        raise Refused(401)
    return {"type": "user", "name": "owner", "orgs": []}


def _models(hub: FakeHub, request: Any, repo: None) -> Any:
    asked = parse_qs(request.url.query.decode())
    found = []
    for name, each in hub.repos.items():
        card = hub.files(name).get("README.md", b"").decode()
        tagged = f"\n- {asked['filter'][0]}\n" in card
        if tagged and name.startswith(asked.get("author", [""])[0]):
            found.append({"id": name, "private": each.private, "downloads": 3, "tags": []})
    return found[: int(asked.get("limit", ["1000"])[0])]


def _create(hub: FakeHub, request: Any, repo: None) -> Any:
    asked = json.loads(request.read())
    name = f"{asked.get('organization') or 'owner'}/{asked['name']}"
    found = {"url": f"{constants.ENDPOINT}/{name}", "name": name}
    if name in hub.repos:
        return httpx.Response(409, json={**found, "error": "exists"})
    private = asked.get("private") or asked.get("visibility") == "private"  # 1.x, 2.x
    hub.add(name, {".gitattributes": b""}, private=bool(private))
    return found


def _info(hub: FakeHub, request: Any, repo: Repo, name: str, revision: str | None = None) -> Any:
    sha = repo.resolve(revision or "main")
    siblings = [{"rfilename": path} for path in repo.commits[sha]]
    return {"id": name, "sha": sha, "private": repo.private, "siblings": siblings}


def _tree(hub: FakeHub, request: Any, repo: Repo, name: str, revision: str) -> Any:
    return [_entry(*item) for item in repo.commits[repo.resolve(revision)].items()]


def _ref(hub: FakeHub, request: Any, repo: Repo, name: str, kind: str, ref: str) -> Any:
    asked = json.loads(request.read() or b"{}")
    new, of = (ref, "main") if kind == "branch" else (asked["tag"], ref)
    repo.names.setdefault(new, repo.resolve(of))
    return {}


def _preupload(hub: FakeHub, request: Any, repo: Repo, name: str, revision: str) -> Any:
    held = repo.commits[repo.resolve(revision)]
    modes = []
    for file in json.loads(request.read())["files"]:
        path, large = file["path"], file["path"].endswith(".safetensors")
        mode = {"path": path, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}
        if path in held:
            data = held[path]
            mode["oid"] = hashlib.sha256(data).hexdigest() if large else _git(data)
        modes.append(mode)
    return {"files": modes}


def _batch(hub: FakeHub, request: Any, repo: Repo, name: str) -> Any:
    objects = json.loads(request.read())["objects"]
    for item in objects:
        if item["oid"] not in hub.large:
            href = str(request.url.join(f"/upload/{item['oid']}"))
            item["actions"] = {"upload": {"href": href}}
    return {"transfer": "basic", "objects": objects}


def _upload(hub: FakeHub, request: Any, repo: None, oid: str) -> Any:
    hub.large[oid] = request.read()
    assert hashlib.sha256(hub.large[oid]).hexdigest() == oid
    return {}


def _commit(hub: FakeHub, request: Any, repo: Repo, name: str, revision: str) -> Any:
    files = dict(repo.commits[repo.resolve(revision)])
    for line in request.read().splitlines():
        item = json.loads(line)
        value = item["value"]
        if item["key"] == "file":
            files[value["path"]] = base64.b64decode(value["content"])
        elif item["key"] == "lfsFile":
            files[value["path"]] = hub.large[value["oid"]]
        elif item["key"] == "deletedFile":
            del files[value["path"]]
    sha = repo.commit(files, revision)
    return {"commitOid": sha, "commitUrl": f"{constants.ENDPOINT}/{name}/commit/{sha}"}


def _resolve(hub: FakeHub, request: Any, repo: Repo, name: str, revision: str, path: str) -> Any:
    sha = repo.resolve(revision)
    if path not in repo.commits[sha]:
        headers = {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": sha}
        return httpx.Response(404, json={"error": "refused"}, headers=headers)
    data = repo.commits[sha][path]
    entry = _entry(path, data)
    headers = {"ETag": entry["lfs"]["oid"] if "lfs" in entry else entry["oid"]}
    if request.method == "GET" and hub.damage.get(path, 0) > 0:
        hub.damage[path] -= 1
        data = data[:-1] + bytes([data[-1] ^ 1])
    start = re.match(r"bytes=(\d+)-", request.headers.get("range", ""))
    if start is not None:  # the oldest client resumes a download that was cut
        headers["Content-Range"] = f"bytes {start[1]}-{len(data) - 1}/{len(data)}"
        data = data[int(start[1]) :]
    headers |= {"X-Repo-Commit": sha, "Content-Length": str(len(data))}
    status = 200 if start is None else 206
    content = b"" if request.method == "HEAD" else data
    return httpx.Response(status, content=content, headers=headers)


_R = "/api/models/(?P<repo>[^/]+/[^/]+)"
_REV = "(?P<revision>[^/]+)"
ROUTES: list[tuple[tuple[str, ...], str, Any]] = [
    (("HEAD",), "/?", lambda *_: {}),
    (("GET",), "/api/whoami-v2", _whoami),
    (("GET",), "/api/models", _models),
    (("POST",), "/api/repos/create", _create),
    (("POST",), "/api/validate-yaml", lambda *_: {"errors": [], "warnings": []}),
    (("GET",), f"{_R}(/revision/{_REV})?", _info),
    (("GET",), f"{_R}/tree/{_REV}", _tree),
    (("POST",), f"{_R}/(?P<kind>branch|tag)/(?P<ref>[^/]+)", _ref),
    (("POST",), f"{_R}/preupload/{_REV}", _preupload),
    (("POST",), r"/(?P<repo>[^/]+/[^/]+)\.git/info/lfs/objects/batch", _batch),
    (("PUT",), "/upload/(?P<oid>[0-9a-f]+)", _upload),
    (("POST",), f"{_R}/commit/{_REV}", _commit),
    (
        ("GET", "HEAD"),
        f"/(?P<repo>[^/]+/[^/]+)/resolve/{_REV}/(?P<path>.+)",
        _resolve,
    ),
]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    """An empty Hub; the client is logged in as its owner and has a cold cache."""
    found = FakeHub()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    monkeypatch.setenv("HF_TOKEN", OWNER)
    options = {"event_hooks": _DEFAULT.event_hooks, "follow_redirects": True}
    set_client_factory(lambda: httpx.Client(transport=httpx.MockTransport(found.answer), **options))
    yield found
    set_client_factory(lambda: httpx.Client(**options))


@contextmanager
def served(found: FakeHub) -> Iterator[dict[str, str]]:
    """Serve a Hub to other processes, which need these variables."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            address = f"http://{self.headers['Host']}{self.path}"
            headers = dict(self.headers.items())
            request = httpx.Request(self.command, address, headers=headers, content=body)
            response = found.answer(request)
            content = response.read()
            self.send_response(response.status_code)
            lengths = {"Content-Length": str(len(content)), **dict(response.headers)}
            for name, value in {name.lower(): value for name, value in lengths.items()}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_HEAD = do_POST = do_PUT = answer

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        endpoint = f"http://127.0.0.1:{server.server_port}"
        yield {"HF_ENDPOINT": endpoint, "HF_TOKEN": OWNER, "HF_HUB_OFFLINE": "0"}
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with all parts, beside files that must not be pushed. Read only."""
    found = parts()
    assert found.pca is not None
    means = found.pca.mean.clone()
    gaussians = ClassGaussians(means, torch.ones_like(means), found.pca.counts.clone())
    config = CheckpointConfig(
        found.flow.config,
        classes=NAMES,
        training={"images": 120, "epochs": 3, "lr": 0.01},
        metrics={"bits_per_dim": 3.25, "nf_acc": 0.75, "exact": 1.0, "on": "24 held-out images"},
    )
    folder = tmp_path_factory.mktemp("made") / "flow"
    Checkpoint(found.flow, config, gaussians, found.pca).save(folder)
    (folder / "samples.png").write_bytes(b"\x89PNG\r\n\x1a\n picture")
    (folder / "optimizer.safetensors").write_bytes(b"state")
    (folder / "log.csv").write_text("loss\n")
    (folder / "state").mkdir()
    (folder / "state" / "model.safetensors").write_bytes(b"state")
    return folder


@pytest.fixture
def mine(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "mine"))


@pytest.fixture
def pushed(hub: FakeHub, made: Path) -> FakeHub:
    push_to_hub(made, REPO)
    hub.requests.clear()
    return hub


def augmented(where: str | Path) -> torch.Tensor:
    """Images of a batch after an augmentation that depends on all parts of the flow."""
    nfa = nfaug.NFAugment.from_pretrained(where, p=1.0, generator=torch.Generator().manual_seed(3))
    return nfa(*batch_of(16))[0]
