"""A stand-in for the hub on loopback: what huggingface_hub 2.4 and datasets 5.2 ask of it, answered as the hub does.

Repositories are mappings of paths to bytes, a commit each; those that are gated answer 401 without a token and 403 to
a token without access, with the hub's own error codes. Uploads take the way of Git LFS (xet is switched off). Every
request is kept.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

GUEST, MEMBER, OWNER = "hf_guest", "hf_member", "hf_owner"  # tokens: no access to gated ones; access; may write
_KINDS = {"models": "model", "datasets": "dataset"}
_API = re.compile(r"/api/(models|datasets)/([^/]+/[^/]+)(?:/(.*))?")
_RESOLVE = re.compile(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
_LFS = re.compile(r"/(datasets/)?([^/]+/[^/]+)\.git/info/lfs/objects/batch")


@dataclass
class Repo:
    """A repository: its commits by their hash, and what its branches point at."""

    commits: dict[str, dict[str, bytes]]
    refs: dict[str, str]
    gated: bool = False
    private: bool = False

    def commit_of(self, revision: str) -> str | None:
        return self.refs.get(revision) or (revision if revision in self.commits else None)

    def add(self, branch: str, files: dict[str, bytes]) -> str:
        told = json.dumps([len(self.commits), branch, *sorted((p, _sha1(b)) for p, b in files.items())])
        self.refs[branch] = _sha1(told.encode())
        self.commits[self.refs[branch]] = files
        return self.refs[branch]


@dataclass
class Hub:
    """The hub as tests see it: what it holds, what it was asked, and how it fails."""

    url: str = ""
    repos: dict[str, Repo] = field(default_factory=dict)  # "models/ID", "datasets/ID"
    asked: list[tuple[str, str, str]] = field(default_factory=list)  # method, path, the range that was asked for
    blobs: dict[str, bytes] = field(default_factory=dict)  # uploaded, by sha256
    drops: dict[str, int] = field(default_factory=dict)  # a file's name -> bytes after which its connection breaks once
    refuses: dict[str, int] = field(default_factory=dict)  # a part of a path -> the status that it is answered with
    silent: float = 0.0  # seconds before anything is answered

    def put(self, name: str, files: Mapping[str, bytes] | Path, *, kind: str = "models", **flags: bool) -> str:
        """A commit on the branch main; gives its hash. `files` by path, or a folder's."""
        if isinstance(files, Path):
            found = sorted(path for path in files.rglob("*") if path.is_file())
            files = {path.relative_to(files).as_posix(): path.read_bytes() for path in found}
        repo = self.repos.setdefault(f"{kind}/{name}", Repo({}, {}, **flags))
        return repo.add("main", dict(files))

    def paths(self) -> list[str]:
        return [path for _, path, _ in self.asked]


def _sha1(content: bytes) -> str:
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()


def _is_large(path: str) -> bool:
    return path.endswith((".safetensors", ".bin", ".parquet"))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._route()

    do_HEAD = do_POST = do_PUT = do_GET

    # --- how it answers -----------------------------------------------------------------------------------------------

    def _send(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if "Content_Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _json(self, value: Any, status: int = 200) -> None:
        self._send(status, json.dumps(value).encode(), Content_Type="application/json")

    def _refuse(self, status: int, code: str, message: str) -> None:
        body = json.dumps({"error": message}).encode()
        self._send(status, body, X_Error_Code=code, X_Error_Message=message, Content_Type="application/json")

    def _token(self) -> str:
        return (self.headers.get("Authorization") or "").removeprefix("Bearer ")

    def _route(self) -> None:
        parts = urlsplit(self.path)
        path, self.query = unquote(parts.path), parse_qs(parts.query)
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.hub.asked.append((self.command, path, self.headers.get("Range") or ""))
        if self.hub.silent:
            time.sleep(self.hub.silent)
            self.close_connection = True
            return None
        for part, status in self.hub.refuses.items():
            if part in path:
                return self._refuse(status, "", "the stand-in was told to refuse")
        if self._token() not in ("", GUEST, MEMBER, OWNER):
            return self._refuse(401, "", "Invalid credentials in Authorization header")
        return self._dispatch(path)

    def _dispatch(self, path: str) -> None:
        if path == "/api/whoami-v2":
            return self._json({"type": "user", "name": "ann", "orgs": []})
        if path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        if path == "/api/repos/create":
            return self._create(json.loads(self.body))
        if path.startswith("/lfs/"):
            self.hub.blobs[path.removeprefix("/lfs/")] = self.body
            return self._send(200)
        if found := _LFS.fullmatch(path):
            return self._batch(json.loads(self.body))
        if found := _API.fullmatch(path):
            return self._api(*found.groups(default=""))
        if found := _RESOLVE.fullmatch(path):
            return self._resolve("datasets" if found[1] else "models", *found.groups()[1:])
        return self._refuse(404, "RepoNotFound", "Repository not found")

    # --- what is there ------------------------------------------------------------------------------------------------

    def _repo(self, kind: str, name: str) -> Repo | None:
        repo = self.hub.repos.get(f"{kind}/{name}")
        if repo is not None and not (repo.private and self._token() != OWNER):
            return repo
        # The hub does not tell strangers what there is not.
        if self._token():
            self._refuse(404, "RepoNotFound", "Repository not found")
        else:
            self._refuse(401, "RepoNotFound", "Invalid username or password.")
        return None

    def _files(self, repo: Repo, revision: str) -> tuple[str, dict[str, bytes]] | None:
        commit = repo.commit_of(revision)
        if commit is None:
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return None
        return commit, repo.commits[commit]

    def _may_read(self, name: str, repo: Repo) -> bool:
        if repo.gated and self._token() not in (MEMBER, OWNER):
            words = f"Access to model {name} is restricted."
            self._refuse(403 if self._token() else 401, "GatedRepo", words)
            return False
        return True

    def _resolve(self, kind: str, name: str, revision: str, path: str) -> None:
        repo = self._repo(kind, name)
        if repo is None or not self._may_read(name, repo) or (held := self._files(repo, revision)) is None:
            return None
        commit, files = held
        if path not in files:
            return self._send(
                404, X_Error_Code="EntryNotFound", X_Error_Message="Entry not found", X_Repo_Commit=commit
            )
        content = files[path]
        tag = hashlib.sha256(content).hexdigest() if _is_large(path) else _sha1(content)
        headers = {"ETag": f'"{tag}"', "X_Repo_Commit": commit, "Accept_Ranges": "bytes"}
        if _is_large(path):
            headers |= {"X_Linked_Size": str(len(content)), "X_Linked_Etag": f'"{tag}"'}
        return self._send_content(path, content, headers)

    def _send_content(self, path: str, content: bytes, headers: dict[str, str]) -> None:
        start, asked = 0, re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        status, end = 200, len(content)
        if asked:
            start, status = int(asked[1]), 206
            end = min(int(asked[2]) + 1, end) if asked[2] else end
            headers["Content_Range"] = f"bytes {start}-{end - 1}/{len(content)}"
        body = content[start:end]
        if self.command == "GET" and (least := self.hub.drops.pop(path, None)) is not None:
            self._send(status, body[:least], Content_Length=str(len(body)), **headers)
            self.wfile.flush()
            self.close_connection = True
            self.connection.close()
            return
        self._send(status, body if self.command == "GET" else b"", **{"Content_Length": str(len(body)), **headers})

    def _api(self, kind: str, name: str, rest: str) -> None:
        repo = self._repo(kind, name)
        if repo is None:
            return None
        what, _, tail = rest.partition("/")
        if self.command == "POST" and what in ("preupload", "commit", "branch"):
            return self._write(name, what, tail or "main")
        if what == "auth-check":
            return self._send(200) if self._may_read(name, repo) else None
        if what == "refs":
            return self._json({"branches": [], "converts": [], "tags": []})
        if what in ("tree", "paths-info"):
            revision, _, folder = tail.partition("/")
        else:
            revision, folder = tail or "main", ""
        if (held := self._files(repo, revision)) is None:
            return None
        if what == "tree":
            return self._tree(held[1], folder)
        if what == "paths-info":
            asked = parse_qs(self.body.decode())["paths"]
            return self._json([_entry(path, held[1][path]) for path in asked if path in held[1]])
        siblings = [{"rfilename": path} for path in sorted(held[1])]
        told = {"id": name, "sha": held[0], "private": repo.private, "gated": "manual" if repo.gated else False}
        return self._json(told | {"siblings": siblings, "tags": [], "downloads": 0, "likes": 0, "disabled": False})

    def _tree(self, files: dict[str, bytes], folder: str) -> None:
        inside = {path: content for path, content in files.items() if not folder or path.startswith(f"{folder}/")}
        if folder and not inside:
            return self._refuse(404, "EntryNotFound", f"{folder} does not exist")
        everything = self.query.get("recursive", ["false"])[0].lower() in ("true", "1")
        deep = {path for path in inside if "/" in path.removeprefix(f"{folder}/")}
        folders = sorted({path.rpartition("/")[0] for path in deep})
        shown = [_entry(path, content) for path, content in inside.items() if everything or path not in deep]
        return self._json([{"type": "directory", "path": path, "oid": "0" * 40, "size": 0} for path in folders] + shown)

    # --- uploads ------------------------------------------------------------------------------------------------------

    def _create(self, asked: dict[str, Any]) -> None:
        if self._token() != OWNER:
            return self._refuse(403 if self._token() else 401, "", "You don't have the rights to create a model")
        name = f"{asked.get('organization') or 'ann'}/{asked['name']}"
        key = f"{asked.get('type') or 'model'}s/{name}"
        if key in self.hub.repos:
            return self._json({"error": "You already created this model repo", "url": f"{self.hub.url}/{name}"}, 409)
        visible = asked.get("visibility") == "private" or asked.get("private")
        self.hub.repos[key] = Repo({}, {}, private=bool(visible))
        self.hub.repos[key].add("main", {})
        return self._json({"url": f"{self.hub.url}/{name}", "name": name, "id": name})

    def _write(self, name: str, what: str, revision: str) -> None:
        repo = self.hub.repos[f"models/{name}"]
        if self._token() != OWNER:
            return self._refuse(403 if self._token() else 401, "", "You don't have write access to this repository")
        if what == "branch":
            repo.refs.setdefault(revision, repo.refs["main"])
            return self._json({})
        if what == "preupload":
            asked = json.loads(self.body)["files"]
            modes = [{"path": f["path"], "uploadMode": "lfs" if _is_large(f["path"]) else "regular"} for f in asked]
            return self._json({"files": [{**mode, "shouldIgnore": False, "oid": None} for mode in modes]})
        files = dict(repo.commits[repo.refs[revision]])
        for line in map(json.loads, self.body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.blobs[value["oid"]]
            elif line["key"] == "deletedFile":
                files.pop(value["path"], None)
        commit = repo.add(revision, files)
        return self._json({"commitUrl": f"{self.hub.url}/{name}/commit/{commit}", "commitOid": commit, "success": True})

    def _batch(self, asked: dict[str, Any]) -> None:
        objects = []
        for each in asked["objects"]:
            upload = {"href": f"{self.hub.url}/lfs/{each['oid']}", "header": {}}
            there = each["oid"] in self.hub.blobs
            objects.append(each if there else {**each, "actions": {"upload": upload}})
        self._json({"transfer": "basic", "objects": objects})


def _entry(path: str, content: bytes) -> dict[str, Any]:
    told = {"type": "file", "path": path, "size": len(content), "oid": _sha1(content)}
    if not _is_large(path):
        return told
    return told | {"lfs": {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}}


@contextmanager
def standing_in() -> Iterator[Hub]:
    """A hub on a port of its own for as long as this lasts."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
