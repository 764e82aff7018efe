"""What the tests of prompters share: a small grid, as pictures and as a file, and a prompter of the chat server on the loopback."""

from pathlib import Path

from PIL import Image

from analogist.grid import PromptGrid
from analogist.prompting import OpenAIPrompter

ENDPOINT = ("OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_MODEL", "OPENAI_LOG", "SECOND_JUDGE_API_KEY")  # variables that set one up


def small_grid(b: str = "white", *, size: int | None = 128) -> PromptGrid:
    """Grey, red and a third colour."""
    return PromptGrid(*(Image.new("RGB", (40, 40), colour) for colour in ("grey", "red", b)), size=size)


def grid_file(folder: Path) -> str:
    """A ready grid as a file, 007.png."""
    path = folder / "007.png"
    Image.new("RGB", (128, 128), "grey").save(path)
    return str(path)


def asker(server, **settings) -> OpenAIPrompter:
    """A prompter of a chat server."""
    return OpenAIPrompter(base_url=server.url, **{"timeout": 60, "retries": 2, **settings})
