"""A stand-in for the model hub on loopback: what huggingface_hub asks of the real one, with faults on demand.

    with StandInHub({"org/name": folder}) as hub, hub.connected(cache):
        AutoModel.from_pretrained("org/name")

`hub.connected` points this process's huggingface_hub at the server; `hub.environment(home)` does it for a subprocess.
`hub.faults` maps a file name (or "upload") to a `Fault`; `hub.requests` lists what was asked. Weights are served as
the real hub does it: a redirect to another host, which must never see the token.
"""

import base64
import hashlib
import json
import os
import re
import threading
import time
import types
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import unquote, urlsplit

LARGE = (".safetensors", ".bin")
Files = dict[str, bytes]


@dataclass
class Fault:
    """What goes wrong with a file, for `times` requests, or for all where it is None."""

    status: int = 0  # answer with this HTTP status
    cut_after: int | None = None  # send this many bytes of the body, then close the connection
    silent: bool = False  # close the connection without an answer
    delay: float = 0.0  # seconds before the answer
    times: int | None = None
    methods: tuple[str, ...] = ("HEAD", "GET")
    announce_length: bool = True  # False: the end of the connection is the end of the body
    flip: int | None = None  # the byte of the body that arrives as another one
    headers: dict[str, str] = field(default_factory=dict)  # sent in place of, or beside, the answer's own

    def spoilt(self, content: bytes) -> bytes:
        """The body as it is sent."""
        if self.flip is not None and content:
            content = bytes(byte ^ (index == self.flip % len(content)) for index, byte in enumerate(content))
        return content[: self.cut_after]


@dataclass
class Request:
    method: str
    path: str
    host: str
    token: str | None
    range: str | None


@dataclass
class StoredRepository:
    """Commits by their hash, each the whole set of files, and the branches and tags that name them."""

    commits: dict[str, Files] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    token: str | None = None  # private: only this token may read
    gated: bool = False

    def commit(self, files: Files, branch: str = "main") -> str:
        merged = {**self.commits.get(self.refs.get(branch, ""), {}), **files}
        digest = hashlib.sha1(f"{len(self.commits)} {branch}".encode())
        for path, content in sorted(merged.items()):
            digest.update(path.encode() + content)
        self.commits[digest.hexdigest()] = merged
        self.refs[branch] = digest.hexdigest()
        return digest.hexdigest()


class StandInHub:
    """The server. Give each repository as a folder or as a dict of contents; `commit` and `tag` change it."""

    def __init__(self, repositories: dict[str, Path | Files] | None = None) -> None:
        self.repositories: dict[str, StoredRepository] = {}
        self.uploads: Files = {}
        self.faults: dict[str, Fault] = {}
        self.requests: list[Request] = []
        self.lock = threading.Lock()
        for name, files in (repositories or {}).items():
            self.commit(name, files)

    def commit(self, name: str, files: Path | Files, branch: str = "main") -> str:
        """Add a commit with these files on top of the branch, and return its hash."""
        if isinstance(files, Path):
            files = {
                path.relative_to(files).as_posix(): path.read_bytes() for path in files.rglob("*") if path.is_file()
            }
        return self.repositories.setdefault(name, StoredRepository()).commit(files, branch)

    def tag(self, name: str, tag: str, commit: str) -> None:
        self.repositories[name].refs[tag] = commit

    def files(self, name: str, revision: str = "main") -> Files:
        repository = self.repositories[name]
        return repository.commits[repository.refs.get(revision, revision)]

    def asked(self, filename: str = "", method: str | None = None) -> list[Request]:
        """The requests so far whose path ends in `filename`."""
        return [asked for asked in self.requests if asked.path.endswith(filename) and method in (None, asked.method)]

    def __enter__(self) -> "StandInHub":
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def environment(self, home: Path) -> dict[str, str]:
        """This process's environment, changed so that a subprocess uses the stand-in and a cache of its own."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
        return {
            **kept,
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1,localhost",
        }

    @contextmanager
    def connected(self, cache: Path, *, offline: bool = False) -> Iterator[None]:
        """Let huggingface_hub in this process use the stand-in and the folder `cache`, and retry without waiting.

        It reads its environment when it is imported, which another test may have done, so its constants are patched.
        """
        import huggingface_hub.constants
        import huggingface_hub.file_download
        from huggingface_hub.utils import _http

        hasty = types.SimpleNamespace(**{**vars(time), "sleep": lambda seconds: None})
        constants = {
            "ENDPOINT": self.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": self.url + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_CACHE": str(cache),
            "HF_TOKEN_PATH": str(cache / "token"),
            "HF_HUB_OFFLINE": offline,
            "HF_HUB_DISABLE_XET": True,
        }
        with ExitStack() as stack:
            stack.enter_context(mock.patch.multiple(huggingface_hub.constants, **constants))
            stack.enter_context(mock.patch.object(huggingface_hub.file_download, "time", hasty))
            stack.enter_context(mock.patch.object(_http, "time", hasty))
            stack.enter_context(mock.patch.dict(os.environ, {"NO_PROXY": "127.0.0.1,localhost"}))
            for variable in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
                os.environ.pop(variable, None)
            _http.close_session()
            try:
                yield
            finally:
                _http.close_session()


class _Handler(BaseHTTPRequestHandler):
    """One request. Names and shapes of the answers are those of the hub's HTTP interface."""

    hub: StandInHub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    ROUTES = (
        (r"/api/repos/create", "create_repository"),
        (r"/api/validate-yaml", "validate_card"),
        (r"/api/models/(?P<repo>.+)/branch/(?P<branch>[^/]+)", "create_branch"),
        (r"/api/models/(?P<repo>.+)/preupload/(?P<revision>[^/]+)", "choose_upload"),
        (r"/api/models/(?P<repo>.+)/commit/(?P<revision>[^/]+)", "receive_commit"),
        (r"/api/models/(?P<repo>.+)/tree/(?P<revision>[^/]+)", "tree"),
        (r"/api/models/(?P<repo>.+)/revision/(?P<revision>[^/]+)", "information"),
        (r"/(?P<repo>.+)\.git/info/lfs/objects/batch", "plan_upload"),
        (r"/upload/(?P<oid>[0-9a-f]{64})", "receive_large_file"),
        (r"/cdn/(?P<oid>[0-9a-f]{64})/(?P<path>.+)", "large_file"),
        (r"/(?P<repo>[^/]+(/[^/]+)?)/resolve/(?P<revision>[^/]+)/(?P<path>.+)", "resolve"),
        (r"/api/models/(?P<repo>.+)", "information"),
    )

    def _answer(self) -> None:
        path = urlsplit(self.path).path
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        request = Request(
            self.command, unquote(path), self.headers.get("Host", ""), self.token, self.headers.get("Range")
        )
        for pattern, action in self.ROUTES:
            if match := re.fullmatch(pattern, path):
                with self.hub.lock:
                    self.hub.requests.append(request)
                groups = {key: unquote(value) for key, value in match.groupdict().items()}
                return getattr(self, action)(**groups)
        return self._send(404)  # huggingface_hub also asks, once a process, for things that no test is about

    def _send(self, status: int, content: bytes = b"", fault: Fault | None = None, **headers: str) -> None:
        self.send_response(status)
        headers = {key.replace("_", "-"): value for key, value in headers.items()}
        for key, value in {**headers, **(fault.headers if fault is not None else {})}.items():
            self.send_header(key, value)
        if fault is None or fault.announce_length:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content if fault is None else fault.spoilt(content))
            self.close_connection = self.close_connection or fault is not None

    def _json(self, content: object, status: int = 200) -> None:
        self._send(status, json.dumps(content).encode(), Content_Type="application/json")

    def _fault(self, path: str) -> Fault | None:
        """The fault that this request for `path` meets: it counts down, waits, and answers where it should."""
        with self.hub.lock:
            fault = self.hub.faults.get(path.rsplit("/")[-1])
            if fault is None or fault.times == 0 or self.command not in fault.methods:
                return None
            if fault.times is not None:
                fault.times -= 1
        time.sleep(fault.delay)
        return fault

    def _broken(self, fault: Fault | None) -> bool:
        if fault is not None and fault.silent:
            self.close_connection = True
        elif fault is not None and fault.status:
            self._send(fault.status)
        return fault is not None and bool(fault.silent or fault.status)

    def _commit_of(self, repo: str, revision: str) -> str | None:
        """The commit of `revision`; None where an error was sent instead."""
        repository = self.hub.repositories.get(repo)
        if repository is None or (repository.token is not None and self.token != repository.token):
            code = "GatedRepo" if repository is not None and repository.gated else "RepoNotFound"
            self._send(401 if self.token is None else 403 if code == "GatedRepo" else 404, X_Error_Code=code)
            return None
        commit = repository.refs.get(revision, revision)
        if commit not in repository.commits:
            self._send(404, X_Error_Code="RevisionNotFound")
            return None
        return commit

    def resolve(self, repo: str, revision: str, path: str) -> None:
        fault = self._fault(path)
        if self._broken(fault):
            return
        commit = self._commit_of(repo, revision)
        if commit is None:
            return
        content = self.hub.repositories[repo].commits[commit].get(path)
        if content is None:
            self._send(404, b"", fault, X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
        elif path.endswith(LARGE):
            oid = hashlib.sha256(content).hexdigest()
            location = f"http://localhost:{self.hub.port}/cdn/{oid}/{path}"
            linked = {"X_Linked_Etag": f'"{oid}"', "X_Linked_Size": str(len(content))}
            self._send(302, b"", fault, Location=location, X_Repo_Commit=commit, **linked)
        else:
            etag = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            self._content(content, fault, ETag=f'"{etag}"', X_Repo_Commit=commit)

    def large_file(self, oid: str, path: str) -> None:
        fault = self._fault(path)
        if not self._broken(fault):
            everything = [
                c for r in self.hub.repositories.values() for files in r.commits.values() for c in files.values()
            ]
            found = next(content for content in everything if hashlib.sha256(content).hexdigest() == oid)
            self._content(found, fault, ETag=f'"{oid}"')

    def _content(self, content: bytes, fault: Fault | None, **headers: str) -> None:
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if wanted is None:
            return self._send(200, content, fault, Accept_Ranges="bytes", **headers)
        start = int(wanted[1])
        if start >= len(content):
            return self._send(416, Content_Range=f"bytes */{len(content)}")
        extent = f"bytes {start}-{len(content) - 1}/{len(content)}"
        return self._send(206, content[start:], fault, Content_Range=extent, **headers)

    def information(self, repo: str, revision: str = "main") -> None:
        commit = self._commit_of(repo, revision)
        if commit is not None:
            siblings = [{"rfilename": path} for path in self.hub.repositories[repo].commits[commit]]
            self._json(
                {"id": repo, "modelId": repo, "sha": commit, "siblings": siblings, "tags": [], "private": False}
            )

    def tree(self, repo: str, revision: str) -> None:
        commit = self._commit_of(repo, revision)
        if commit is not None:
            files = self.hub.repositories[repo].commits[commit]
            self._json(
                [
                    {
                        "type": "file",
                        "path": path,
                        "size": len(files[path]),
                        "oid": hashlib.sha1(files[path]).hexdigest(),
                    }
                    for path in files
                ]
            )

    def create_repository(self) -> None:
        if self.token is None:
            return self._send(401)
        wish = json.loads(self.body)
        name = f"{wish['organization'] or 'me'}/{wish['name']}"
        existed = name in self.hub.repositories
        if not existed:
            self.hub.commit(name, {".gitattributes": b"*.safetensors filter=lfs\n"})
            self.hub.repositories[name].token = self.token if wish.get("visibility") == "private" else None
        return self._json({"url": f"{self.hub.url}/{name}"}, 409 if existed else 200)

    def validate_card(self) -> None:
        self._json({"errors": [], "warnings": []})

    def create_branch(self, repo: str, branch: str) -> None:
        refs = self.hub.repositories[repo].refs
        existed = branch in refs
        refs.setdefault(branch, refs["main"])
        self._json({}, 409 if existed else 200)

    def choose_upload(self, repo: str, revision: str) -> None:
        modes = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(LARGE) else "regular",
                "shouldIgnore": False,
            }
            for file in json.loads(self.body)["files"]
        ]
        self._json({"files": modes})

    def plan_upload(self, repo: str) -> None:
        objects = [
            {**wanted, "actions": {"upload": {"href": f"{self.hub.url}/upload/{wanted['oid']}"}}}
            for wanted in json.loads(self.body)["objects"]
        ]
        self._json({"transfer": "basic", "objects": objects})

    def receive_large_file(self, oid: str) -> None:
        if self._broken(self._fault("upload")):
            return
        intact = hashlib.sha256(self.body).hexdigest() == oid
        self.hub.uploads[oid] = self.body
        self._send(200 if intact else 400)

    def receive_commit(self, repo: str, revision: str) -> None:
        if self.token is None or self._commit_of(repo, revision) is None:
            return None if self.token else self._send(401)
        files: Files = {}
        for line in self.body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "header":
                self.hub.repositories[repo].messages.append(value["summary"])
            elif entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.hub.uploads[value["oid"]]
        commit = self.hub.commit(repo, files, revision)
        return self._json({"commitUrl": f"{self.hub.url}/{repo}/commit/{commit}", "commitOid": commit})
