"""A stand-in for GitHub on the loopback: the API's commits and trees, and raw files, of repositories held in memory."""

import hashlib
import json
import re
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from urllib.parse import unquote, urlsplit

from .running import running

COMMIT = "abcdef1234567890abcdef1234567890abcdef12"


def git_blob(content: bytes) -> str:
    """What `git hash-object` prints."""
    return hashlib.sha1(b"blob " + str(len(content)).encode() + b"\0" + content).hexdigest()


@dataclass
class GitHub:
    """files: path -> content, of one repository at COMMIT, branch main. wrong: paths with another content. fails: path -> statuses to
    answer first. limited: whether the API refuses. requests: (path, whether a token came).
    """

    repository: str
    files: dict[str, bytes]
    wrong: set[str] = field(default_factory=set)
    fails: dict[str, list[int]] = field(default_factory=dict)
    limited: bool = False
    truncated: bool = False
    requests: list[tuple[str, bool]] = field(default_factory=list)
    url: str = ""

    def raw(self) -> list[str]:
        """Raw files that were asked for, in order."""
        return [path.split(f"/{COMMIT}/", 1)[1] for path, _ in self.requests if f"/{COMMIT}/" in path]

    def tree(self, folder: str, recursive: bool) -> list[dict]:
        """Entries of a folder; a tree's name is its path, as hexadecimal digits."""
        found = {}
        for path, content in self.files.items():
            if path.startswith(folder):
                inside = path.removeprefix(folder)
                first, below, _ = inside.partition("/")
                if below:
                    found[first] = {"path": first, "type": "tree", "sha": (folder + first + "/").encode().hex()}
                if recursive or not below:
                    found[inside] = {"path": inside, "type": "blob", "size": len(content), "sha": git_blob(content)}
        return list(found.values())


@contextmanager
def github_server(repository: str, files: dict[str, bytes]):
    """Runs a GitHub; its url is for both GITHUB_API_URL and GITHUB_RAW_URL."""
    state = GitHub(repository, files)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def do_GET(self):
            parts = urlsplit(self.path)
            path = unquote(parts.path)
            state.requests.append((path, "Authorization" in self.headers))
            commit = re.fullmatch(rf"/repos/{re.escape(repository)}/commits/(.+)", path)
            tree = re.fullmatch(rf"/repos/{re.escape(repository)}/git/trees/([0-9a-f]+)", path)
            raw = re.fullmatch(rf"/{re.escape(repository)}/{COMMIT}/(.+)", path)
            if (commit or tree) and state.limited:
                return self.reply(403, b'{"message": "API rate limit exceeded"}')
            if commit and commit[1] in ("main", COMMIT):
                return self.reply(200, json.dumps({"sha": COMMIT, "commit": {"tree": {"sha": b"/".hex()}}}).encode())
            if commit:
                return self.reply(422, b'{"message": "No commit found"}')
            if tree:
                folder = bytes.fromhex(tree[1]).decode().lstrip("/")
                listed = state.tree(folder, parts.query == "recursive=1")
                return self.reply(200, json.dumps({"tree": listed, "truncated": state.truncated}).encode())
            if raw and state.fails.get(raw[1]):
                return self.reply(state.fails[raw[1]].pop(0), b"")
            if raw and raw[1] in state.files:
                return self.reply(200, state.files[raw[1]] + (b"!" if raw[1] in state.wrong else b""))
            self.reply(404, b"404: Not Found")

        def reply(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    with running(Handler) as address:
        state.url = address
        yield state
