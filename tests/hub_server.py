"""A stand-in for the Hugging Face Hub on loopback, for tests.

HubServer   serves folders as repos of models and datasets; a context manager with .url for
            HF_ENDPOINT, .requests as a log, .stop() to pull the plug
"""

import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "1234567890abcdef1234567890abcdef12345678"


class HubServer:
    """Serve `repos` {"owner/name": folder}, each with one commit that "main" points to.

    gated          repos that answer "ask for access"
    any_commit     whether every commit that is asked for is there; else only COMMIT is
    break_after    {"file name": bytes}: the first download of that file is cut off there
    requests       list of (method, path, Range header or None), in order
    """

    def __init__(self, repos: dict[str, Path], gated=(), break_after=None, any_commit=False):
        self.repos, self.gated, self.any_commit = repos, set(gated), any_commit
        self.break_after = dict(break_after or {})
        self.requests: list[tuple[str, str, str | None]] = []
        hub = self

        class Handler(_Handler):
            server_hub = hub

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self) -> None:
        """No longer answer; the port refuses connections from here on."""
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    server_hub: HubServer
    commit = COMMIT  # of the answer

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self._answer(body=False)

    def do_GET(self):
        self._answer(body=True)

    def do_POST(self):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self._answer(body=True)

    def _answer(self, body: bool):
        hub, path = self.server_hub, unquote(urlsplit(self.path).path)
        hub.requests.append((self.command, path, self.headers.get("Range")))
        parts = path.strip("/")
        for prefix in ("api/", "models/", "datasets/"):
            parts = parts.removeprefix(prefix)
        parts = parts.split("/")
        repo, rest = "/".join(parts[:2]), parts[2:]
        if repo in hub.gated:
            return self._refuse(403, "GatedRepo")
        if repo not in hub.repos:
            return self._refuse(404, "RepoNotFound")
        asked = rest[1] if len(rest) > 1 else "main"
        if hub.any_commit and re.fullmatch("[0-9a-f]{40}", asked):
            self.commit = asked
        elif asked not in ("main", COMMIT):
            return self._refuse(404, "RevisionNotFound")
        if path.startswith("/api/"):
            self._describe(repo, body, tree="tree" in rest or "paths-info" in rest)
            return
        file = hub.repos[repo] / "/".join(rest[2:])
        if not file.is_file():
            return self._refuse(404, "EntryNotFound")
        self._send_file(file, body)

    def _refuse(self, status: int, code: str):
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Repo-Commit", self.commit)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _describe(self, repo: str, body: bool, tree: bool):
        """What a repo holds: of its tree (as datasets asks for it), or as its siblings."""
        folder = self.server_hub.repos[repo]
        sizes = {
            path.relative_to(folder).as_posix(): path.stat().st_size
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
        if tree:
            told = [
                {"type": "file", "path": name, "size": size, "oid": "0" * 40}
                for name, size in sizes.items()
            ]
        else:
            siblings = [{"rfilename": name, "size": size} for name, size in sizes.items()]
            told = {"id": repo, "sha": self.commit, "siblings": siblings}
        text = json.dumps(told).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if body:
            self.wfile.write(text)

    def _send_file(self, file: Path, body: bool):
        content, requested = file.read_bytes(), self.headers.get("Range")
        start = int(requested.removeprefix("bytes=").split("-")[0]) if requested else 0
        self.send_response(206 if requested else 200)
        if requested:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("X-Repo-Commit", self.commit)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Linked-Size", str(len(content)))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        if body:
            stop = self.server_hub.break_after.pop(file.name, len(content))
            self.wfile.write(content[start:stop])
            if stop < len(content):
                self.close_connection = True
