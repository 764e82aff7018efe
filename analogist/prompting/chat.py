"""Any OpenAI-compatible chat endpoint with pictures (vLLM, llama.cpp's server, Ollama, `transformers serve`, hosted services)."""

import base64
import io
import json
import os
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

from PIL import Image

from analogist.prompting.asking import AskingPrompter
from analogist.prompting.prompts import NoAnswer, PromptError, check_text

HIDDEN = "***"
EXTRA = "the openai client is not installed; install it with: pip install 'analogist[prompting]'"
HINTS = {
    400: "the model may not accept pictures; try another with --prompter-model",
    401: "check OPENAI_API_KEY or --api-key",
    403: "check that the key may use this model",
    404: "check --base-url (it usually ends in /v1) and --prompter-model",
    413: "the picture is too large for the server",
    429: "the server's limit is reached; wait, or try another model",
}


class OpenAIPrompter(AskingPrompter):
    """Asks a chat endpoint. Only the client holds the key: no message, record, log line or repr of this package shows it."""

    kind = "openai"

    def __init__(
        self, model: str | None = None, *, base_url: str | None = None, api_key: str | None = None, timeout: float = 120.0,
        retries: int = 4, max_tokens: int = 300, temperature: float | None = None, wording: str = "published",
        candidates: int = 1, words: int | None = 5, cache: bool | str | Path = True,
    ) -> None:  # fmt: skip
        """model: its name at the endpoint; None: OPENAI_MODEL, else the only one that the endpoint serves. base_url: None: OPENAI_BASE_URL,
        else OpenAI's own. api_key: None: OPENAI_API_KEY; your own server usually needs none. timeout: seconds per attempt.
        retries: with growing pauses, on 429, 5xx and broken connections only. max_tokens: of the answer.
        temperature: None: the server's. The rest as AskingPrompter.
        Raises PromptError if the client is not installed, or if the key or URL is missing or invalid.
        """
        super().__init__(wording=wording, candidates=candidates, words=words, cache=cache)
        for name, value, low in (("timeout", timeout, 0.001), ("retries", retries, 0), ("max_tokens", max_tokens, 1)):
            if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= 1e6:
                raise PromptError(f"{name} {value!r}: a number of at least {low} is allowed")
        base_url = base_url or os.environ.get("OPENAI_BASE_URL") or None
        key = api_key or os.environ.get("OPENAI_API_KEY") or None
        _check_url(base_url)
        if key is not None and not (key.isascii() and key.isprintable()):
            raise PromptError("the API key holds invalid characters; check OPENAI_API_KEY or --api-key")
        if key is None and base_url is None:
            raise PromptError(
                "no endpoint: set OPENAI_API_KEY for OpenAI's own, or give --base-url (OPENAI_BASE_URL) of another, such as "
                "http://localhost:8000/v1"
            )
        try:
            import openai
        except ImportError:
            raise PromptError(EXTRA) from None
        self._openai = openai
        headers, hidden = _login(base_url)
        self._secrets = tuple(secret for secret in (key, *hidden) if secret)
        self._client = openai.OpenAI(
            api_key=key or "none", base_url=None if base_url is None else _public(base_url), timeout=timeout,
            max_retries=int(retries), default_headers=headers,
        )  # fmt: skip
        self.endpoint = _public(str(self._client.base_url))
        self._model = model or os.environ.get("OPENAI_MODEL") or None
        if self._model is not None:
            check_text(self._model, "the model's name")
        self.max_tokens, self.temperature = int(max_tokens), temperature

    @property
    def model(self) -> str:
        """The model's name; if none was given, the only one that the endpoint serves."""
        if self._model is None:
            served = self._served()
            if len(served) != 1:
                listed = ", ".join(served[:8]) + (" ..." if len(served) > 8 else "") or "none"
                raise PromptError(f"{self.endpoint}: no model was chosen; give --prompter-model (OPENAI_MODEL); it serves {listed}")
            self._model = served[0]
        return self._model

    def identity(self) -> dict[str, object]:
        return {
            "model": self.model, "endpoint": self.endpoint, "max_tokens": self.max_tokens, "temperature": self.temperature,
        }  # fmt: skip

    def answer(self, picture: Image.Image, question: str) -> str:
        buffer = io.BytesIO()
        picture.save(buffer, format="PNG")
        url = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
        content = [{"type": "text", "text": question}, {"type": "image_url", "image_url": {"url": url}}]
        settings: dict[str, Any] = {"model": self.model, "messages": [{"role": "user", "content": content}]}
        if self.temperature is not None:
            settings["temperature"] = self.temperature
        try:
            completion = self._complete(settings | {"max_tokens": self.max_tokens})
        except _OtherLimit:  # OpenAI's newer models accept the limit only under another name
            completion = self._complete(settings | {"max_completion_tokens": self.max_tokens})
        try:
            return self._hide(_text(completion, self.endpoint))
        except PromptError as error:
            problem = type(error)(self._hide(str(error)))
        raise problem  # outside the handler, so that the original error, which may hold the key, is not kept as its context

    def _complete(self, settings: dict[str, Any]) -> object:
        return self._guarded(lambda: self._client.chat.completions.create(**settings), limit="max_tokens" in settings)

    def _served(self) -> list[str]:
        page = self._guarded(lambda: self._client.models.list(), limit=False)
        models = getattr(page, "data", None)
        return [str(entry.id) for entry in models if getattr(entry, "id", None)] if isinstance(models, list) else []

    def _guarded(self, call, *, limit: bool) -> object:
        """Runs a call of the client. Any error becomes one PromptError without the key and without a cause."""
        openai, where = self._openai, f"the endpoint {self.endpoint}"
        try:
            return call()
        except openai.APITimeoutError:
            message = f"{where} did not answer within {self._client.timeout:g} s, {self._attempts()}; raise --prompter-timeout"
        except openai.APIStatusError as error:
            said = self._hide(_said(error))
            if limit and error.status_code == 400 and "max_completion_tokens" in said:
                raise _OtherLimit from None
            tried = f", {self._attempts()}" if error.status_code == 429 or error.status_code >= 500 else ""
            hint = HINTS.get(error.status_code)
            message = f"{where} answered {error.status_code}{tried}: {said}" + (f"; {hint}" if hint else "")
        except openai.APIConnectionError as error:
            cause = self._hide(" ".join(str(error.__cause__ or error).split())[:160])
            said = f"cannot be reached or closed the connection, {self._attempts()} ({cause})"
            message = f"{where} {said}; check --base-url (OPENAI_BASE_URL)"
        except (openai.OpenAIError, ValueError, TypeError, AttributeError, KeyError) as error:
            # An unexpected body can make the client fail in many different ways.
            kind = "not JSON" if isinstance(error, json.JSONDecodeError) else f"not a chat completion ({type(error).__name__})"
            message = f"{where} sent an answer that is {kind}; check that --base-url is an OpenAI-compatible address"
        raise PromptError(self._hide(message))

    def _attempts(self) -> str:
        n = self._client.max_retries + 1
        return "tried once" if n == 1 else f"tried {n} times"

    def _hide(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, HIDDEN)
        return text

    def __repr__(self) -> str:
        return f"<OpenAIPrompter: {self._model or 'the model served'} at {self.endpoint}>"


class _OtherLimit(Exception):
    """The server asks for max_completion_tokens."""


def _check_url(url: str | None) -> None:
    """Raises PromptError unless url is a valid address of an endpoint."""
    if url is None:
        return
    check_text(url, "the base URL")
    shown = ""
    try:
        parts = urlsplit(url)
        shown = f" {_public(url)!r}"
        host = (parts.hostname or "").encode("idna")
        usable = parts.scheme in ("http", "https") and host and parts.port != 0 and url.isprintable() and " " not in url
    except ValueError:  # unclosed brackets, a port that is not a number, a host name that is too long
        usable = False
    if not usable:
        raise PromptError(f"base URL{shown}: it must begin with http:// or https:// and a host, such as http://localhost:8000/v1")


def _public(url: str) -> str:
    """A URL without user, password, query and fragment."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path.rstrip("/"), "", ""))


def _login(url: str | None) -> tuple[dict[str, str] | None, tuple[str, ...]]:
    """The header for a URL with user and password, because the client would log them with the URL; and the strings to hide."""
    parts = urlsplit(url or "")
    if parts.username is None:
        return None, ()
    user, password = unquote(parts.username), unquote(parts.password or "")
    code = base64.b64encode(f"{user}:{password}".encode()).decode()
    return {"Authorization": f"Basic {code}"}, (parts.password or "", password, code)


def _said(error) -> str:
    """The server's own error message, in one line."""
    body = error.body
    for key in ("error", "message", "detail"):
        if isinstance(body, dict) and key in body:
            body = body[key]
    if isinstance(body, dict) and "message" in body:
        body = body["message"]
    text = " ".join(str(body if body else error.message).split())
    if text.lower().startswith(("<!doctype", "<html")):
        text = "a web page, not an error of an OpenAI-compatible server"
    return text[:240] or "no reason given"


def _text(completion: object, endpoint: str) -> str:
    """The answer's text. Raises NoAnswer if there is none, PromptError if it is not a chat completion."""
    choices = getattr(completion, "choices", None)
    if not isinstance(choices, list):
        raise PromptError(f"the endpoint {endpoint} did not send a chat completion; check that --base-url is an OpenAI-compatible address")
    message = getattr(choices[0], "message", None) if choices else None
    if message is None:
        raise PromptError(f"the endpoint {endpoint} sent an answer without a choice; try again or another model")
    content = getattr(message, "content", None)
    if isinstance(content, list):  # some servers send a list of parts, with thoughts as separate parts
        content = " ".join(part["text"] for part in content if isinstance(part, dict) and _is_said(part))
    if isinstance(content, str) and content.strip():
        return content
    refusal = getattr(message, "refusal", None)
    if isinstance(refusal, str) and refusal.strip():
        raise NoAnswer(f"the model declined to answer: {' '.join(refusal.split())[:160]!r}")
    if getattr(choices[0], "finish_reason", None) == "length":
        raise NoAnswer("the model used up its tokens before it answered; raise --max-tokens")
    raise NoAnswer(f"the endpoint {endpoint} sent an empty answer")


def _is_said(part: dict) -> bool:
    return isinstance(part.get("text"), str) and not any(word in str(part.get("type")).lower() for word in ("think", "thought", "reason"))
