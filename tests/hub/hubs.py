"""A small hub on loopback that speaks the parts of both hubs' HTTP that the real clients use for a download."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlparse

if TYPE_CHECKING:
    from tests.hub.troubles import Trouble

COMMIT = "0123456789abcdef0123456789abcdef01234567"

# why a repository's files are not given, as Hugging Face says it
GATES = {
    "no token": (401, "Access to model owner/name is restricted. You must have access to it and be authenticated."),
    "wrong token": (401, "Invalid credentials in Authorization header"),
    "weak token": (403, "Please enable access to public gated repositories in your fine-grained token settings."),
    "licence": (403, "Access to model owner/name is restricted and you are not in the authorized list."),
    "waiting": (403, "Your request to access model owner/name is awaiting a review from the repo authors."),
    "gone": (410, "Gone"),
    "rejected": (403, "Your request to access model owner/name has been rejected by the repo's authors."),
}
LISTING = ""  # the name under which `trouble` is kept for the next requests of any kind


def clients_at(url: str, folder: Path) -> dict[str, str]:
    """The environment of a process whose hub clients, both of them, ask `url` and keep everything in `folder`."""
    return {
        **os.environ,
        "ARRIERO_HOME": str(folder / "home"),
        "HF_HOME": str(folder / "hf"),
        "HF_ENDPOINT": url,
        "HF_HUB_DISABLE_XET": "1",
        "MODELSCOPE_ENDPOINT": url,
        "MODELSCOPE_CACHE": str(folder / "ms"),
    }


def download(
    folder: Path, url: str, *arguments: str, environment: Mapping[str, str] | None = None
) -> tuple[int, Any, str]:
    """Run `arriero download` with both clients pointed at `url`; returns exit code, JSON document, standard error."""
    command = [sys.executable, "-m", "arriero.cli", "download", "--json", *arguments]
    variables = {**clients_at(url, folder), **(environment or {})}
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False, timeout=100)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, json.loads(done.stdout) if done.stdout else None, done.stderr


class LoopbackHub(ThreadingHTTPServer):
    """Serves the files of one directory as one repository, owner/name; `asked` lists the paths of all requests.

    `trouble` holds for a file what becomes of the next requests for it, one after the other: see `troubles.py`.
    """

    daemon_threads = True

    def __init__(self, folder: Path | None = None, files: dict[str, bytes] | None = None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        found = sorted(folder.iterdir()) if folder is not None else []
        self.files = {file.name: file.read_bytes() for file in found if file.is_file()} | (files or {})
        self.trouble: dict[str, list[Trouble]] = defaultdict(list)
        self.ranges = True  # whether Range is understood
        self.ranged: list[tuple[str, str | None]] = []  # file and Range of the requests for files
        self.sent = 0  # bytes of files, as far as they were taken
        self.credentials: list[str] = []  # Authorization and Cookie of all requests
        self.asked: list[str] = []
        self.tokens: list[str] = []  # the headers of all requests that may carry one
        self.created: dict[str, Any] = {}  # what a repository was made with
        self.uploaded: dict[str, bytes] = {}
        self.served: list[str] = []  # files whose bytes were sent
        self.repository = "owner/name"
        self.others: dict[str, dict[str, bytes]] = {}  # the files of further repositories
        self.gated: str | None = None  # why its files are not given: a key of GATES
        self.repeats = False  # a refusal repeats the token, as a hub or a proxy on the way may
        self.broken = False  # every request is answered with an error
        self.awake = threading.Event()  # requests are answered at all
        self.awake.set()
        self.when_asked: Callable[[], None] = lambda: None
        self.corrupted: str | None = None  # this file is served with a wrong byte and the right size and names
        self.types: dict[str, str] = {}  # what ModelScope's listing says a file is, where it is no ordinary one
        self.stalled = threading.Event()  # a request has fallen silent
        self.reached, self.gate = threading.Event(), threading.Event()  # a file was asked for; files may be sent
        self.gate.set()
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def close(self) -> None:
        """Answer no more."""
        self.shutdown()
        self.server_close()

    def handle_error(self, *args: object) -> None:
        """Clients may leave."""


class Handler(BaseHTTPRequestHandler):
    server: LoopbackHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        """Uploads, of small files within a commit as both hubs allow; ModelScope's large files by PUT."""
        body = self._body()
        self.server.asked.append(self.path)
        self.server.tokens.append(self.headers.get("Authorization", ""))
        if self.server.gated is not None:
            return self._refuse()
        if self.path in ("/api/repos/create", "/api/v1/models"):
            self.server.created = self.server.created or json.loads(body)  # it is made once
            return self._json({"url": f"{self.server.url}/owner/new", "Code": 200, "Data": {}, "Success": True})
        if "/preupload/" in self.path:
            files = [{**file, "uploadMode": "regular", "shouldIgnore": False} for file in json.loads(body)["files"]]
            return self._json({"files": files})
        if self.path.endswith("/objects/batch"):
            url = f"{self.server.url}/put/"
            objects = [
                {**each, "actions": {"upload": {"href": url + each["oid"]}}} for each in json.loads(body)["objects"]
            ]
            return self._json({"Code": 200, "Data": {"objects": objects}})
        if "/commit/" in self.path:
            self._commit(body)
        return self._json(
            {
                "commitOid": COMMIT,
                "commitUrl": f"{self.server.url}/owner/new/commit/{COMMIT}",
                "errors": [],
                "warnings": [],
                "Code": 200,
                "Data": {},
                "Success": True,
            }
        )

    def _commit(self, body: bytes) -> None:
        if self.path.startswith("/api/v1/"):
            actions = json.loads(body)["actions"]
        else:
            actions = [line["value"] for line in map(json.loads, body.splitlines()) if line["key"] == "file"]
        for action in actions:
            data = base64.b64decode(action.get("content", ""))
            self.server.uploaded[action["path"]] = self.server.uploaded.pop(action.get("sha256", ""), data)

    def do_PUT(self) -> None:
        self.server.uploaded[self.path.rpartition("/")[2]] = self._body()
        self._json({})

    def _body(self) -> bytes:
        if "Content-Length" in self.headers:
            return self.rfile.read(int(self.headers["Content-Length"]))
        parts = []  # in chunks, each after its size and before an empty line
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def do_GET(self) -> None:
        url = urlparse(self.path)
        path = unquote(url.path)
        self.server.asked.append(path)
        self.server.tokens += [self.headers.get(name, "") for name in ("Authorization", "Cookie")]
        self.server.credentials += [self.headers[name] for name in ("Authorization", "Cookie") if self.headers[name]]
        self.server.awake.wait()
        self.server.when_asked()
        if self.server.broken:
            return self._send(500, b"{}", {})
        if path == "/":
            return self._send(200, b"", {})
        repositories = {self.server.repository: self.server.files, **self.server.others}
        repository = next((name for name in repositories if f"/{name}" in path), None)
        if repository is None:
            return self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        self.files = repositories[repository]
        if self.server.gated is not None and (not path.startswith("/api/") or path.startswith("/api/v1/")):
            return self._refuse()
        path = (
            path.replace(repository, "owner/name")
            .replace("/api/datasets/", "/api/models/")
            .replace("/api/v1/datasets/", "/api/v1/models/")
        )
        if self.server.trouble[LISTING]:
            return self.server.trouble[LISTING].pop(0)(self, b"")
        if path.startswith("/api/models/owner/name/tree/"):
            return self._json([{"type": "file", "path": name, **self._size(name)} for name in self.files])
        if path.startswith("/api/models/owner/name"):
            return self._json(self._info())
        if path.endswith(("/repo/files", "/repo/tree")):
            return self._json({"Code": 200, "Success": True, "Data": {"Files": self._listing(), "TotalCount": 2}})
        if path.endswith("/revisions"):
            return self._json(
                {"Code": 200, "Data": {"RevisionMap": {"Branches": [{"Revision": "master"}], "Tags": []}}}
            )
        name = parse_qs(url.query).get("FilePath", [path.partition("/resolve/")[2].partition("/")[2]])[0]
        if name in self.files and ("/resolve/" in path or path.endswith("/repo")):
            return self._file(name)
        return self._json({"Code": 200, "Success": True, "Data": {"Name": "name", "Path": "owner"}})

    def _refuse(self) -> None:
        """As the hubs do: Hugging Face says in headers why not, ModelScope in the body."""
        status, reason = GATES[str(self.server.gated)]
        token = self.headers.get("Authorization", "")
        if self.server.repeats:
            reason = f"{token} {self.headers.get('Cookie', '')} {reason}"
        body = json.dumps({"Code": 10010205001, "Message": reason, "Success": False}).encode()
        code = {} if self.server.gated in ("wrong token", "gone") else {"X-Error-Code": "GatedRepo"}
        self._send(status, body, {**code, "X-Error-Message": reason})

    def _info(self) -> dict:
        siblings = []
        for name, data in self.files.items():
            lfs = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 1}
            siblings.append({"rfilename": name, "size": len(data), "lfs": lfs})
        return {"id": "owner/name", "modelId": "owner/name", "sha": COMMIT, "siblings": siblings, "private": False}

    def _size(self, name: str) -> dict:
        data = self.files[name]
        return {"size": len(data), "oid": hashlib.sha1(data).hexdigest()}

    def _listing(self) -> list[dict]:
        return [
            {
                "Path": name,
                "Name": name,
                "Type": self.server.types.get(name, "blob"),
                "Size": len(data),
                "Sha256": hashlib.sha256(data).hexdigest(),
                "Revision": COMMIT,
                "IsLFS": False,
            }
            for name, data in self.files.items()
        ]

    def _file(self, name: str) -> None:
        data = self.files[name]
        if name == self.server.corrupted:
            data = data[:-1] + bytes([data[-1] ^ 1])
        if self.command == "GET":
            self.server.ranged.append((name, self.headers["Range"]))
            if self.server.trouble[name]:
                return self.server.trouble[name].pop(0)(self, data)
            self.server.served.append(name)
            self.server.reached.set()
            self.server.gate.wait()
        return self.serve(data)

    def serve(self, data: bytes, stop: int | None = None) -> None:
        """A file, or the part asked for; with `stop` only its first bytes, after the headers of all."""
        kind = "text/html" if data.startswith(b"<html>") else "application/octet-stream"
        etag = f'"{hashlib.sha1(data).hexdigest()}"'
        headers = {"ETag": etag, "X-Repo-Commit": COMMIT, "Content-Type": kind}
        start = 0
        if self.server.ranges and self.headers["Range"] and self.headers.get("If-Range", etag) == etag:
            start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
            if start >= len(data):
                return self._send(416, b"", {"Content-Range": f"bytes */{len(data)}"})
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        body = data[start:]
        self._head(206 if start else 200, {**headers, "Content-Length": str(len(body))})
        if self.command != "HEAD":
            for offset in range(0, len(body[:stop]), 4096):
                chunk = body[:stop][offset : offset + 4096]
                self.wfile.write(chunk)
                self.server.sent += len(chunk)
        return None

    def _json(self, document: object) -> None:
        self._send(200, json.dumps(document).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self._head(status, {**headers, "Content-Length": str(len(body))})
        if self.command != "HEAD":
            self.wfile.write(body)

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
