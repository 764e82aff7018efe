"""Asks one prompter about many grids, for the evaluation."""

from collections.abc import Mapping

from tqdm import tqdm

from analogist.disk.writing import shown
from analogist.grid.prompt_grid import PromptGrid
from analogist.prompting.given import FilePrompter, read_prompt_file
from analogist.prompting.prompts import Prompter, PromptError, Prompts


def ask_all(grids: Mapping[str, PromptGrid], prompter: Prompter, *, progress: bool = True) -> dict[str, Prompts]:
    """Name -> prompts of each grid. Answers are kept one by one, so that an interrupted call can be resumed.

    Raises PromptError that names the grid without a prompt, or for a file that lists prompts without names.
    """
    if isinstance(prompter, FilePrompter) and len(grids) > 1 and None in read_prompt_file(prompter.path):
        raise PromptError(
            f"{shown(prompter.path)}: {len(grids)} grids need a file with lines of name TAB prompt; this one has prompts without names"
        )
    found = {}
    for name, grid in tqdm(grids.items(), desc="prompts", unit="grid", disable=not progress):
        try:
            found[name] = prompter(grid, name)
        except PromptError as error:
            raise PromptError(f"{name}: {error}") from None
    return found
