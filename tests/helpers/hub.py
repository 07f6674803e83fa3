"""A fake of the Hugging Face hub's HTTP API: it makes repositories, takes commits, and gives files."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import re
import threading
from typing import Any

TOKEN = "hf_" + "Kq7" * 8


class FakeHub:
    """A server on a free port of this machine. ``repos``: name -> file -> content; ``asked``: method and path.

    Writing, and reading a private repository, need `TOKEN`.
    """

    def __init__(self) -> None:
        self.repos: dict[str, dict[str, bytes]] = {}
        self.private: set[str] = set()
        self.asked: list[str] = []
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._resolve()

    def do_GET(self) -> None:
        self._resolve()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.hub.asked.append(f"POST {self.path}")
        if not self._is_owner():
            self._answer(401, {"error": "Invalid username or password."})
        elif self.path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
            if name in self.hub.repos:
                self._answer(409, {"error": "You already created this model repo", "url": f"{self.hub.url}/{name}"})
                return
            self.hub.repos[name] = {}
            self.hub.private |= {name} if asked.get("private") or asked.get("visibility") == "private" else set()
            self._answer(200, {"url": f"{self.hub.url}/{name}", "name": name, "id": name})
        elif self.path == "/api/validate-yaml":
            self._answer(200, {"errors": [], "warnings": []})
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/(preupload|commit)/main", self.path):
            self._commit(match[1], match[2], body)
        else:
            self._answer(404, {"error": f"the fake knows no {self.path}"})

    def _commit(self, repo: str, step: str, body: bytes) -> None:
        if step == "preupload":
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            self._answer(200, {"files": files})
            return
        for line in body.splitlines():
            entry = json.loads(line)
            if entry["key"] == "file":
                assert entry["value"]["encoding"] == "base64"
                self.hub.repos[repo][entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
        url = f"{self.hub.url}/{repo}/commit/{'c' * 40}"
        self._answer(200, {"success": True, "commitOid": "c" * 40, "commitUrl": url, "hookOutput": ""})

    def _resolve(self) -> None:
        self.hub.asked.append(f"{self.command} {self.path}")
        match = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/([^/?]+)", self.path)
        repo, file = (match[1], match[3]) if match else ("", "")
        if repo not in self.hub.repos or (repo in self.hub.private and not self._is_owner()):
            self._answer(401, {"error": "Invalid username or password."}, code="RepoNotFound")
        elif match and match[2] not in ("main", "v1", "c" * 40):
            self._answer(404, {"error": "Invalid rev id"}, code="RevisionNotFound")
        elif file not in self.hub.repos[repo]:
            self._answer(404, {"error": "Entry not found"}, code="EntryNotFound")
        else:
            self._answer(200, self.hub.repos[repo][file])

    def _is_owner(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _answer(self, status: int, content: Any, code: str = "") -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        if code:
            self.send_header("X-Error-Code", code)
        if isinstance(content, bytes):
            self.send_header("ETag", f'"{hashlib.sha1(data).hexdigest()}"')
            self.send_header("X-Repo-Commit", "c" * 40)
        else:
            self.send_header("Content-Type", "application/json")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)
