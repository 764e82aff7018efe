"""Prompts that need no model: given as text, read from a file, or none at all."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from analogist.disk.foreign import composed, read_text
from analogist.disk.writing import shown
from analogist.prompting.prompts import PromptError, Prompts, check_text

if TYPE_CHECKING:
    from analogist.grid.prompt_grid import PromptGrid


# A picture's name with nothing after its tab: a line of the published form without its prompt. It is not a prompt itself.
PICTURE_AND_TAB = re.compile(r"\.(?:png|jpe?g|webp|bmp|gif|tiff?)\t", re.IGNORECASE)


@dataclass(frozen=True)
class TextPrompter:
    """The same text for every grid."""

    text: str

    def __call__(self, grid: "PromptGrid | None" = None, name: str | None = None) -> Prompts:
        """Raises PromptError for an empty text; use NoPrompter for no prompt."""
        if not self.text.strip():
            raise PromptError("the prompt given is empty; leave it out to use the pictures alone")
        return Prompts((check_text(self.text.strip(), "the prompt given"),), {"prompter": "text"})


@dataclass(frozen=True)
class NoPrompter:
    """No text prompt: the pictures alone. because: the reason, for the record."""

    because: str | None = None

    def __call__(self, grid: "PromptGrid | None" = None, name: str | None = None) -> Prompts:
        author: dict[str, object] = {"prompter": "none"}
        return Prompts(("",), author if self.because is None else author | {"because": self.because})


@dataclass(frozen=True)
class FilePrompter:
    """Prompts of a text file: either one prompt per line (all of them candidates for every grid) or the published tab-separated form,
    name TAB prompt [TAB prompt ...], one line per grid.
    """

    path: str | Path

    def __call__(self, grid: "PromptGrid | None" = None, name: str | None = None) -> Prompts:
        """name: the grid's file name, which selects the line of the tab-separated form. The suffix may differ. Accented letters match
        whether they are stored as one character (NFC) or as a letter and its accent (NFD, as on a Mac).

        Raises PromptError if the file cannot be read, is malformed, or does not list the name.
        """
        by_name = read_prompt_file(self.path)
        author: dict[str, object] = {"prompter": "file", "file": Path(self.path).name}
        if None in by_name:
            return Prompts(by_name[None], author)
        if name is None:
            if len(by_name) == 1:
                only = next(iter(by_name))
                return Prompts(by_name[only], author | {"line": only})
            raise PromptError(
                f"{shown(self.path)}: lists prompts by name ({_some(by_name)}), but this grid has no name; give one prompt per line"
            )
        names = {composed(listed): listed for listed in by_name if listed is not None}
        stems = {composed(Path(listed).stem): listed for listed in names.values()}
        listed = names.get(composed(name)) or stems.get(composed(Path(name).stem))
        if listed is None:
            raise PromptError(f"{shown(self.path)}: no line for {name}; it lists {_some(by_name)}")
        return Prompts(by_name[listed], author | {"line": listed})


def read_prompt_file(path: str | Path) -> dict[str | None, tuple[str, ...]]:
    """Name -> its prompts, in the file's order. For a file with one prompt per line: None -> all its prompts.

    The file is UTF-8, or UTF-16 or UTF-32 with a byte-order mark; blank lines are skipped.
    Raises PromptError that names the file and the line.
    """
    try:
        lines = read_text(path).splitlines()
    except OSError as error:
        raise PromptError(
            f"{shown(path)}: cannot be read ({error.strerror or error}); give a text file with one prompt per line"
        ) from None
    except ValueError:  # not UTF-8, or a file name that is not possible
        raise PromptError(f"{shown(path)}: not UTF-8 text; give a text file with one prompt per line") from None
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not numbered:
        raise PromptError(f"{shown(path)}: holds no prompt; write one prompt per line")
    for number, line in numbered:
        check_text(line, f"{shown(path)}: line {number}")
    if not any("\t" in line.strip() or PICTURE_AND_TAB.search(line) for _, line in numbered):
        return {None: tuple(line.strip() for _, line in numbered)}
    by_name: dict[str | None, tuple[str, ...]] = {}
    listed: set[str] = set()
    for number, line in numbered:
        name, *prompts = (field.strip() for field in line.split("\t"))
        prompts = tuple(prompt for prompt in prompts if prompt)
        if not name or not prompts:
            raise PromptError(
                f"{shown(path)}: line {number} is not name TAB prompt, although earlier lines are: {line.strip()[:80]!r}"
            )
        if composed(name) in listed:
            raise PromptError(
                f"{shown(path)}: line {number} lists {name} a second time; keep one line with all its prompts, separated by TABs"
            )
        listed.add(composed(name))
        by_name[name] = prompts
    return by_name


def _some(names: dict[str | None, tuple[str, ...]]) -> str:
    listed = [str(name) for name in names]
    return ", ".join(listed[:4]) + (f" and {len(listed) - 4} more" if len(listed) > 4 else "")
