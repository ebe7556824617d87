"""A stand-in for the Hugging Face Hub on the loopback interface, with the requests that pushing and pulling send."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

LARGE = 5000  # bytes from which a file is uploaded apart from the commit, as weights are


class Hub:
    """The repositories of the stand-in.

    Attributes:
        files: The content of each file by repository and name.
        private: The repositories that only the token may see.
        token: The token of the user.
        uploads: The content of large files by checksum.
        url: The URL of the server.
    """

    def __init__(self) -> None:
        self.files: dict[str, dict[str, bytes]] = {}
        self.private: set[str] = set()
        self.token = "hf_stand_in"
        self.uploads: dict[str, bytes] = {}
        self.url = ""

    def commit(self, repository: str) -> str:
        """Return the commit of a repository: a checksum of its content."""
        text = "".join(f"{name} {hashlib.sha256(data).hexdigest()}" for name, data in self.files[repository].items())
        return hashlib.sha1(text.encode()).hexdigest()

    def apply(self, repository: str, lines: list[dict[str, Any]]) -> None:
        """Add the files of a commit."""
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                self.files[repository][value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                self.files[repository][value["path"]] = self.uploads[value["oid"]]


@contextmanager
def serve() -> Iterator[Hub]:
    """Run the stand-in in a thread.

    Yields:
        The repositories.
    """
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, *_: Any) -> None:
        """Write nothing."""

    def _send(self, status: int, content: bytes | dict[str, Any] = b"", **headers: str) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _is_user(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {self.hub.token}"

    def _may_read(self, repository: str) -> bool:
        return repository in self.hub.files and (repository not in self.hub.private or self._is_user())

    def do_POST(self) -> None:
        """Create a repository, say how to upload files, or commit."""
        body = self._body()
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        if not self._is_user():
            self._send(401, {"error": "Invalid credentials"})
        elif parts == ["api", "repos", "create"]:
            about = json.loads(body)
            repository = f"{about['organization']}/{about['name']}" if about.get("organization") else about["name"]
            if repository in self.hub.files:
                self._send(409, {"url": f"{self.hub.url}/{repository}"})
                return
            self.hub.files[repository] = {}
            if about.get("private") or about.get("visibility") == "private":
                self.hub.private.add(repository)
            self._send(200, {"url": f"{self.hub.url}/{repository}", "id": repository})
        elif parts == ["api", "validate-yaml"]:  # the head of the model card
            self._send(200, {"errors": [], "warnings": []}, Content_Type="application/json")
        elif parts[4:5] == ["preupload"]:
            modes = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["size"] >= LARGE else "regular",
                    "shouldIgnore": False,
                }
                for file in json.loads(body)["files"]
            ]
            self._send(200, {"files": modes})
        elif parts[-3:] == ["lfs", "objects", "batch"]:
            objects = [
                {**entry, "actions": {"upload": {"href": f"{self.hub.url}/upload/{entry['oid']}"}}}
                for entry in json.loads(body)["objects"]
            ]
            self._send(200, {"transfer": "basic", "objects": objects}, Content_Type="application/vnd.git-lfs+json")
        elif parts[4:5] == ["commit"]:
            repository = "/".join(parts[2:4])
            self.hub.apply(repository, [json.loads(line) for line in body.splitlines()])
            oid = self.hub.commit(repository)
            self._send(200, {"commitUrl": f"{self.hub.url}/{repository}/commit/{oid}", "commitOid": oid})
        else:
            self._send(404, {"error": self.path})

    def do_PUT(self) -> None:
        """Take the content of a large file."""
        data = self._body()
        self.hub.uploads[hashlib.sha256(data).hexdigest()] = data
        self._send(200)

    def do_HEAD(self) -> None:
        """Describe a file."""
        self.do_GET()

    def do_GET(self) -> None:
        """Describe a repository, or send a file."""
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        is_api = parts[:2] == ["api", "models"]
        repository = "/".join(parts[2:4] if is_api else parts[:2])
        if not self._may_read(repository):
            self._send(401, {"error": "no"}, X_Error_Code="RepoNotFound", X_Error_Message="Repository not found")
            return
        files, commit = self.hub.files[repository], self.hub.commit(repository)
        revision = (parts[5] if len(parts) > 5 else "main") if is_api else parts[3]
        if revision not in {"main", commit}:
            self._send(404, {"error": "no"}, X_Error_Code="RevisionNotFound", X_Error_Message="Invalid rev id")
        elif is_api:
            siblings = [{"rfilename": name, "size": len(data)} for name, data in files.items()]
            self._send(200, {"id": repository, "sha": commit, "siblings": siblings}, Content_Type="application/json")
        elif (name := "/".join(parts[4:])) in files:
            etag = hashlib.sha256(files[name]).hexdigest()
            self._send(200, files[name], X_Repo_Commit=commit, ETag=f'"{etag}"')
        else:
            self._send(404, {"error": "no"}, X_Error_Code="EntryNotFound", X_Error_Message="Entry not found")
