"""A small OpenAI-compatible server on the loopback whose next answers a test lays down."""

import base64
import io
import json
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler

from PIL import Image

from .running import running


def completion(content, **message) -> dict:
    """A chat completion as the protocol has it."""
    choice = {
        "index": 0,
        "finish_reason": message.pop("finish_reason", "stop"),
        "message": {"role": "assistant", "content": content, **message},
    }
    return {"id": "1", "object": "chat.completion", "created": 1, "model": "seeing", "choices": [choice]}


@dataclass
class Reply:
    """One answer. body: JSON-ready, or bytes as they are. cut: only so many bytes are sent, then the connection breaks off."""

    body: object
    status: int = 200
    kind: str = "application/json"
    wait: float = 0.0
    cut: int | None = None
    headers: dict[str, str] = field(default_factory=dict)


def error(status: int, message: str) -> Reply:
    """An error of the protocol; retries are asked for at once, so that tests do not wait."""
    return Reply({"error": {"message": message, "type": "x"}}, status, headers={"retry-after-ms": "1"})


@dataclass
class ChatServer:
    """replies: taken in turn, the last one for ever. requests: (path, headers, JSON body) of everything that was asked."""

    replies: list[Reply]
    models: list[str] = field(default_factory=lambda: ["seeing"])
    requests: list[tuple[str, dict, dict]] = field(default_factory=list)
    url: str = ""

    @property
    def asked(self) -> int:
        """Chat completions asked for."""
        return sum(path.endswith("/chat/completions") for path, _, _ in self.requests)

    def picture(self) -> Image.Image:
        """The picture in the last question."""
        for part in self.requests[-1][2]["messages"][0]["content"]:
            if part["type"] == "image_url":
                return Image.open(io.BytesIO(base64.b64decode(part["image_url"]["url"].partition(",")[2])))
        raise AssertionError("no picture was sent")

    def question(self) -> str:
        """The text of the last question."""
        return next(part["text"] for part in self.requests[-1][2]["messages"][0]["content"] if part["type"] == "text")


@contextmanager
def chat_server(*replies: Reply | str, models: list[str] | None = None):
    """Runs a ChatServer; texts stand for good answers."""
    laid = [reply if isinstance(reply, Reply) else Reply(completion(reply)) for reply in replies]
    state = ChatServer(laid, ["seeing"] if models is None else models)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def do_GET(self):
            state.requests.append((self.path, {name.lower(): value for name, value in self.headers.items()}, {}))
            self.send(Reply({"object": "list", "data": [{"id": name, "object": "model"} for name in state.models]}))

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            state.requests.append((self.path, {name.lower(): value for name, value in self.headers.items()}, body))
            self.send(state.replies.pop(0) if len(state.replies) > 1 else state.replies[0])

        def send(self, reply: Reply) -> None:
            time.sleep(reply.wait)
            body = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
            try:
                self.send_response(reply.status)
                for name, value in {"Content-Type": reply.kind, "Content-Length": str(len(body)), **reply.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body if reply.cut is None else body[: reply.cut])
                self.wfile.flush()
            except (BrokenPipeError, ConnectionResetError):
                pass  # the client gave up waiting
            if reply.cut is not None:
                self.close_connection = True

    with running(Handler) as address:
        state.url = f"{address}/v1"
        yield state
