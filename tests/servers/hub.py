"""A stand-in for the hub on the loopback: repositories of files from a folder, and everything that goes wrong with them."""

import hashlib
import json
import re
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import unquote, urlsplit

from .running import running

COMMIT = "1234567890abcdef1234567890abcdef12345678"
LARGE = 10_000  # bytes from which a file is kept outside git, under its SHA-256


@dataclass
class Repository:
    """files: name -> content. gated, private: who may read it. breaks: name -> how often it breaks off in the middle.
    wrong: names whose content is not what the hash says. lost: names that are listed and not there. licence: of its card.
    """

    files: dict[str, bytes]
    commit: str = COMMIT
    gated: bool = False
    private: bool = False
    breaks: dict[str, int] = field(default_factory=dict)
    wrong: set[str] = field(default_factory=set)
    lost: set[str] = field(default_factory=set)
    licence: str | None = None


@dataclass
class HubServer:
    """requests: (method, path, Range header, whether a token came) of everything asked. url: for HF_ENDPOINT."""

    repositories: dict[str, Repository]
    requests: list[tuple[str, str, str | None, bool]] = field(default_factory=list)
    url: str = ""
    token: str = "hf_right"

    def fetched(self) -> list[str]:
        """Names of the files whose content was asked for, each once."""
        asked = [path.split("/resolve/", 1)[1] for method, path, *_ in self.requests if method == "GET" and "/resolve/" in path]
        return sorted({path.split("/", 1)[1] for path in asked})


def of_folder(folder: Path) -> dict[str, bytes]:
    """The content of every file below a folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@contextmanager
def hub_server(repositories: dict[str, Repository]):
    """Runs a HubServer."""
    state = HubServer(repositories)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def do_HEAD(self):
            self.serve()

        def do_GET(self):
            self.serve()

        def serve(self) -> None:
            path = unquote(urlsplit(self.path).path)
            authorised = self.headers.get("Authorization") == f"Bearer {state.token}"
            state.requests.append((self.command, path, self.headers.get("Range"), "Authorization" in self.headers))
            api = re.fullmatch(r"/api/(?:models|datasets)/([^/]+/[^/]+)(?:/revision/(.+))?", path)
            resolve = re.fullmatch(r"/(?:datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
            found = api or resolve
            if found is None:
                return self.refuse(404, "EntryNotFound", f"nothing at {path}")
            name, revision = found[1], found[2]
            repository = state.repositories.get(name)
            if repository is None or (repository.private and not authorised):
                return self.refuse(401, "RepoNotFound", "Repository Not Found")
            if revision not in (None, "main", repository.commit):
                return self.refuse(404, "RevisionNotFound", "Invalid rev id")
            if api:
                return self.reply(200, json.dumps(self.listing(name, repository)).encode(), {"Content-Type": "application/json"})
            if repository.gated and not authorised:
                return self.refuse(403, "GatedRepo", "Access to this model is restricted")
            if resolve[3] not in repository.files or resolve[3] in repository.lost:
                return self.refuse(404, "EntryNotFound", "Entry not found")
            self.file(resolve[3], repository)

        @staticmethod
        def listing(name: str, repository: Repository) -> dict:
            siblings = []
            for file, content in repository.files.items():
                entry = {"rfilename": file, "size": len(content), "blobId": "0" * 40}
                if len(content) >= LARGE:
                    entry["lfs"] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
                siblings.append(entry)
            card = {} if repository.licence is None else {"cardData": {"license": repository.licence}}
            known = {"id": name, "modelId": name, "sha": repository.commit, "siblings": siblings, "tags": [], "downloads": 0}
            return known | card

        def file(self, name: str, repository: Repository) -> None:
            content = repository.files[name]
            sha = hashlib.sha256(content).hexdigest()
            etag = sha if len(content) >= LARGE else hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            if name in repository.wrong:
                content = content[:-1] + bytes([content[-1] ^ 1])
            headers = {"X-Repo-Commit": repository.commit, "ETag": f'"{etag}"', "Accept-Ranges": "bytes"}
            start = int(re.match(r"bytes=(\d+)-", self.headers.get("Range") or "bytes=0-")[1])
            status = 206 if start else 200
            if start:
                headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            part = content[start:]
            if self.command == "GET" and repository.breaks.get(name, 0) > 0:
                repository.breaks[name] -= 1
                self.reply(status, part[: len(part) // 2], headers, announced=len(part))
                self.close_connection = True
            else:
                self.reply(status, part, headers)

        def refuse(self, status: int, code: str, message: str) -> None:
            self.reply(status, message.encode(), {"X-Error-Code": code, "X-Error-Message": message})

        def reply(self, status: int, body: bytes, headers: dict[str, str], announced: int | None = None) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body) if announced is None else announced)}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)
                self.wfile.flush()

    with running(Handler) as address:
        state.url = address
        yield state
