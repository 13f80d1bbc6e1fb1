"""The routes of `loopback_server`: a function per route, over repositories in memory."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

__all__ = ["ROUTES", "Refuse", "Repo", "is_large"]


class Refuse(Exception):
    """An error response: status, the Hub's error code, a message, extra headers."""

    def __init__(self, status: int, code: str = "", message: str = "", **headers: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.headers = status, code, message, headers


@dataclass
class Repo:
    """Commits map paths to (content, is a large file?); branches and tags map to commits."""

    private: bool = False
    gated: bool = False
    commits: dict[str, dict[str, tuple[bytes, bool]]] = field(default_factory=dict)
    history: list[str] = field(default_factory=list)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def commit(self, files: dict[str, tuple[bytes, bool]], branch: str) -> str:
        sha = hashlib.sha1(f"{len(self.history)}{sorted(files)}{id(self)}".encode()).hexdigest()
        self.commits[sha] = files
        self.history.append(sha)
        self.branches[branch] = sha
        return sha

    def resolve(self, revision: str) -> str:
        for names in (self.branches, self.tags):
            if revision in names:
                return names[revision]
        if revision in self.commits:
            return revision
        raise Refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")


def is_large(path: str, sample: bytes, size: int) -> bool:
    return path.endswith(".safetensors") or b"\0" in sample or size > 5_000_000


def git_sha1(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def entry(path: str, data: bytes, large: bool) -> dict[str, Any]:
    found: dict[str, Any] = {"type": "file", "path": path, "size": len(data)}
    if large:
        oid = hashlib.sha256(data).hexdigest()
        found["lfs"] = {"oid": oid, "sha256": oid, "size": len(data), "pointerSize": 134}
        found["oid"] = git_sha1(oid.encode())
    else:
        found["oid"] = git_sha1(data)
    return found


ROUTES: list[tuple[str, re.Pattern[str], Callable[..., Any]]] = []


def route(methods: str, pattern: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a route; ``{repo}`` matches two segments, ``{path}`` all, others one."""
    pattern = pattern.replace("{R}", "/api/models/{repo}").replace(
        "{repo}", "(?P<repo>[^/]+/[^/]+)"
    )
    pattern = pattern.replace("{path}", "(?P<path>.+)")
    compiled = re.compile(re.sub(r"{(\w+)}", r"(?P<\1>[^/]+)", pattern))

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        ROUTES.extend((method, compiled, function) for method in methods.split())
        return function

    return register


@route("GET", "/api/whoami-v2")
def whoami(call: Any) -> Any:
    if (name := call.user()) is None:
        raise Refuse(401, message="Invalid username or password.")
    return {"type": "user", "name": name, "orgs": []}


@route("GET", "/api/models")
def list_models(call: Any) -> Any:
    found, user = [], call.user()
    for name, repo in call.hub.repos.items():
        card = repo.commits[repo.branches["main"]].get("README.md", (b"", False))[0].decode()
        tags = re.findall(r"^(?:- |library_name: )(\S+)$", card.split("\n---")[0], re.MULTILINE)
        author = call.query.get("author", [name.split("/")[0]])[0]
        wanted = set(call.query.get("filter", [])) <= set(tags) and name.startswith(author + "/")
        if wanted and (user == "owner" or not repo.private):
            found.append({"id": name, "tags": tags, "private": repo.private, "downloads": 0})
    return found[: int(call.query.get("limit", ["1000"])[0])]


@route("POST", "/api/repos/create")
def create_repo(call: Any) -> Any:
    user, asked = call.user(write=True), call.json()
    name = f"{asked.get('organization') or user}/{asked['name']}"
    url = {"url": f"{call.hub.endpoint}/{name}", "name": name}
    if name in call.hub.repos:
        return 409, {**url, "error": "You already created this model repo"}, {}
    private = asked.get("private") or asked.get("visibility") == "private"  # 1.x, 2.x
    call.hub.add(name, private=bool(private))
    return url


@route("DELETE", "/api/repos/delete")
def delete_repo(call: Any) -> Any:
    asked = call.json()
    name = f"{asked.get('organization') or call.user()}/{asked['name']}"
    call.repo(name, write=True)
    del call.hub.repos[name]
    return {}


@route("POST", "/api/validate-yaml")
def validate_yaml(call: Any) -> Any:
    return {"errors": [], "warnings": []}


@route("GET", "{R}(?:/revision/{rev})?")
def repo_info(call: Any, repo: str, rev: str = "main") -> Any:
    found = call.repo(repo)
    sha = found.resolve(rev if "/revision/" in call.path else "main")
    siblings = [{"rfilename": path} for path in found.commits[sha]]
    return {"id": repo, "sha": sha, "private": found.private, "siblings": siblings}


@route("GET", "{R}/tree/{rev}")
def tree(call: Any, repo: str, rev: str) -> Any:
    found = call.repo(repo)
    return [entry(path, *held) for path, held in found.commits[found.resolve(rev)].items()]


@route("POST", "{R}/paths-info/{rev}")
def paths_info(call: Any, repo: str, rev: str) -> Any:
    found, paths = call.repo(repo), parse_qs(call.body.decode()).get("paths", [])
    files = found.commits[found.resolve(rev)]
    return [entry(path, *files[path]) for path in paths if path in files]


@route("GET", "{R}/refs")
def refs(call: Any, repo: str) -> Any:
    found = call.repo(repo)
    kinds = (("branches", "heads", found.branches), ("tags", "tags", found.tags))
    listed: dict[str, list[dict[str, str]]] = {"converts": []}
    for kind, folder, names in kinds:
        listed[kind] = [
            {"name": name, "ref": f"refs/{folder}/{name}", "targetCommit": sha}
            for name, sha in names.items()
        ]
    return listed


@route("POST DELETE", "{R}/(?P<kind>tag|branch)/{name}")
def ref(call: Any, repo: str, kind: str, name: str) -> Any:
    found, asked = call.repo(repo, write=True), call.json() if call.body else {}
    names = found.tags if kind == "tag" else found.branches
    if call.command == "DELETE":
        if names.pop(name, None) is None:
            raise Refuse(404, "RevisionNotFound", f"no {kind} {name}")
        return {}
    target = found.resolve(name if kind == "tag" else asked.get("startingPoint", "main"))
    new = asked["tag"] if kind == "tag" else name
    if new in names:
        raise Refuse(409, message="Reference already exists")
    names[new] = target
    return {}


@route("POST", "{R}/preupload/{rev}")
def preupload(call: Any, repo: str, rev: str) -> Any:
    found = call.repo(repo, write=True)
    held, modes = found.commits[found.resolve(rev)], []
    for file in call.json()["files"]:
        path, size = file["path"], file["size"]
        large = is_large(path, base64.b64decode(file["sample"]), size)
        mode = {"path": path, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}
        if path in held:
            data, was_large = held[path]
            mode["oid"] = hashlib.sha256(data).hexdigest() if was_large else git_sha1(data)
        modes.append(mode)
    return {"files": modes}


@route("POST", r"/{repo}\.git/info/lfs/objects/batch")
def lfs_batch(call: Any, repo: str) -> Any:
    call.repo(repo, write=True)
    objects = []
    for item in call.json()["objects"]:
        oid, size = item["oid"], item["size"]
        objects.append({"oid": oid, "size": size})
        if oid not in call.hub.large:
            upload = {"href": f"{call.hub.storage}/upload/{oid}"}
            verify = {"href": f"{call.hub.endpoint}/verify"}
            objects[-1]["actions"] = {"upload": upload, "verify": verify}
    return {"transfer": "basic", "objects": objects}


@route("PUT", "/upload/{oid}")
def upload(call: Any, oid: str) -> Any:
    if "Authorization" in call.headers or hashlib.sha256(call.body).hexdigest() != oid:
        raise Refuse(400, message="a token for the storage, or content that is not the oid's")
    call.hub.large[oid] = call.body
    return {}


@route("POST", "/verify")
def verify(call: Any) -> Any:
    asked = call.json()
    if len(call.hub.large.get(asked["oid"], b"")) != asked["size"]:
        raise Refuse(404, message="Object not found")
    return {}


@route("POST", "{R}/commit/{rev}")
def commit(call: Any, repo: str, rev: str) -> Any:
    found = call.repo(repo, write=True)
    if rev not in found.branches:
        raise Refuse(404, "RevisionNotFound", f"Invalid rev id: {rev}")
    files = dict(found.commits[found.branches[rev]])
    for line in call.body.splitlines():
        item = json.loads(line)
        key, value = item["key"], item["value"]
        if key == "file":
            files[value["path"]] = (base64.b64decode(value["content"]), False)
        elif key == "lfsFile":
            if value["oid"] not in call.hub.large:
                raise Refuse(400, message=f"no content for {value['path']}")
            files[value["path"]] = (call.hub.large[value["oid"]], True)
        elif key == "deletedFile" and files.pop(value["path"], None) is None:
            raise Refuse(404, "EntryNotFound", "A file with this name doesn't exist")
    sha = found.commit(files, rev)
    return {"commitOid": sha, "commitUrl": f"{call.hub.endpoint}/{repo}/commit/{sha}"}


@route("GET HEAD", "/{repo}/resolve/{rev}/{path}")
def resolve(call: Any, repo: str, rev: str, path: str) -> Any:
    found = call.repo(repo)
    if found.gated and call.user() != "owner":
        raise Refuse(403 if call.user() else 401, "GatedRepo", "Access to this model is restricted")
    sha = found.resolve(rev)
    commit = {"X-Repo-Commit": sha}
    if path not in found.commits[sha]:
        raise Refuse(404, "EntryNotFound", "Entry not found", **commit)
    data, large = found.commits[sha][path]
    if not large:
        return 200, data, {**commit, "ETag": f'"{git_sha1(data)}"'}
    oid = hashlib.sha256(data).hexdigest()
    call.hub.large[oid] = data
    linked = {"X-Linked-ETag": f'"{oid}"', "X-Linked-Size": str(len(data))}
    return 302, {}, {**commit, **linked, "Location": f"{call.hub.storage}/lfs/{oid}/{path}"}


@route("GET HEAD", "/lfs/{oid}/{path}")
def large_file(call: Any, oid: str, path: str) -> Any:
    if "Authorization" in call.headers:
        raise Refuse(400, message="the token was sent to the storage")
    return 200, call.hub.large[oid], {"ETag": f'"{oid}"'}
