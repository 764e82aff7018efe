"""`--prompter auto`: asks a model if the environment names one, else uses the pictures alone and says so."""

import os
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

from analogist.prompting.given import NoPrompter
from analogist.prompting.prompts import Prompter, PromptError, Prompts, PromptWarning

if TYPE_CHECKING:
    from analogist.grid.prompt_grid import PromptGrid

ENDPOINT_VARIABLES = ("OPENAI_BASE_URL", "OPENAI_API_KEY")


class AutoPrompter:
    """Asks the endpoint that is set up. If it gives no prompt, continues without one, with a PromptWarning."""

    def __init__(self, endpoint: Callable[[], Prompter], *, configured: bool | None = None) -> None:
        """endpoint: makes the prompter. configured: whether an endpoint is set up; None: look for the endpoint variables."""
        self._endpoint = endpoint
        self._configured = any(os.environ.get(name) for name in ENDPOINT_VARIABLES) if configured is None else configured
        self._prompter: Prompter | None = None

    def __call__(self, grid: "PromptGrid", name: str | None = None) -> Prompts:
        """Never raises PromptError."""
        if not self._configured:
            return self._none(grid, f"no endpoint is set up (none of {', '.join(ENDPOINT_VARIABLES)} is set)")
        try:
            if self._prompter is None:
                self._prompter = self._endpoint()
            return self._prompter(grid, name)
        except PromptError as error:
            return self._none(grid, str(error))

    @staticmethod
    def _none(grid: "PromptGrid", because: str) -> Prompts:
        warnings.warn(f"no text prompt: {because}; going on with the picture prompt alone", PromptWarning, stacklevel=3)
        return NoPrompter(because)(grid)
