"""A server that stands in for the Hugging Face Hub: the few of its endpoints that ``push`` and ``pull`` use."""

import base64
import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_" + "x" * 34
SHA = "0123456789" * 4


@dataclass
class Repo:
    """Files by name, and who can see them."""

    files: dict[str, bytes] = field(default_factory=dict)
    private: bool = False


@dataclass
class Hub:
    """
    What the server has, and what it was asked for.

    :param endpoint: Its address
    :param repos: Repositories by ``user/name``
    :param downloaded: Names of files that were downloaded
    """

    endpoint: str
    repos: dict[str, Repo] = field(default_factory=dict)
    downloaded: set[str] = field(default_factory=set)


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, *_: Any) -> None:
        pass

    def _send(self, content: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _json(self, content: Any, status: int = 200, **headers: str) -> None:
        self._send(json.dumps(content).encode(), status, Content_Type="application/json", **headers)

    def _missing(self) -> None:
        self._json({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(tree|revision)/[^/]+)?", path):
            repo = self.hub.repos.get(found[1])
            if repo is None:
                return self._missing()
            if found[2] == "tree":
                return self._json([_entry(name, content) for name, content in repo.files.items()])
            files = [{"rfilename": n, "size": len(c), "blobId": _oid(c)} for n, c in repo.files.items()]
            info = {"id": found[1], "sha": SHA, "private": repo.private, "siblings": files, "tags": [], "downloads": 0}
            return self._json(info)
        if (found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path)) and found[1] in self.hub.repos:
            content = self.hub.repos[found[1]].files[found[2]]
            if self.command == "GET":
                self.hub.downloaded.add(found[2])
            return self._send(content, ETag=f'"{_oid(content)}"', X_Repo_Commit=SHA)
        return self._missing()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._json({"error": "Invalid username or password."}, 401)
        if self.path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            url = {"url": f"{self.hub.endpoint}/{name}"}
            if name in self.hub.repos:
                return self._json({**url, "error": "You already created this model repo"}, 409)
            self.hub.repos[name] = Repo(private=asked.get("visibility") == "private" or bool(asked.get("private")))
            return self._json(url)
        found = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(preupload|commit)/main", self.path)
        assert found is not None, self.path
        if found[2] == "preupload":
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(body)["files"]
            ]
            return self._json({"files": files})
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                self.hub.repos[found[1]].files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            elif line["key"] == "deletedFile":
                del self.hub.repos[found[1]].files[line["value"]["path"]]
        return self._json({"commitUrl": f"{self.hub.endpoint}/{found[1]}/commit/{SHA}", "commitOid": SHA})


def _oid(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


def _entry(name: str, content: bytes) -> dict[str, Any]:
    return {"type": "file", "path": name, "size": len(content), "oid": _oid(content)}


@contextlib.contextmanager
def hub_server() -> Iterator[Hub]:
    """:return: A running server, which knows the token :data:`TOKEN`"""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    hub = Hub(f"http://127.0.0.1:{server.server_port}")
    server.RequestHandlerClass = type("_HandlerOfHub", (_Handler,), {"hub": hub})
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
