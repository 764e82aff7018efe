"""One prompter asked about many grids, as the evaluation does."""

from collections.abc import Mapping

from tqdm import tqdm

from analogist.disk.writing import shown
from analogist.grid.prompt_grid import PromptGrid
from analogist.prompting.given import FilePrompter, read_prompt_file
from analogist.prompting.prompts import Prompter, PromptError, Prompts


def ask_all(grids: Mapping[str, PromptGrid], prompter: Prompter, *, progress: bool = True) -> dict[str, Prompts]:
    """Name -> prompts of each grid. Answers are kept one by one, so that an interrupted round goes on where it stopped.

    Raises PromptError naming the grid where no prompt can be had, or for a file that lists prompts without names.
    """
    if isinstance(prompter, FilePrompter) and len(grids) > 1 and None in read_prompt_file(prompter.path):
        raise PromptError(
            f"{shown(prompter.path)}: {len(grids)} grids need a file with lines of name TAB prompt; this one has prompts alone"
        )
    found = {}
    for name, grid in tqdm(grids.items(), desc="prompts", unit="grid", disable=not progress):
        try:
            found[name] = prompter(grid, name)
        except PromptError as error:
            raise PromptError(f"{name}: {error}") from None
    return found
