"""Where text prompts come from: given, a file, an OpenAI-compatible endpoint, or a local vision-language model.

Every prompter is called with a grid and returns Prompts:

    prompts = OpenAIPrompter("qwen2.5-vl-7b", base_url="http://localhost:8000/v1")(grid)
    result = model(grid, prompts.first)
"""

from analogist.cache import cache_folder
from analogist.prompting.asking import ASKED_SIZE, AskingPrompter
from analogist.prompting.automatic import AutoPrompter
from analogist.prompting.chat import OpenAIPrompter
from analogist.prompting.given import FilePrompter, NoPrompter, TextPrompter, read_prompt_file
from analogist.prompting.local import LocalPrompter
from analogist.prompting.many import ask_all
from analogist.prompting.parse import is_refusal, parse_answer
from analogist.prompting.prompts import Prompter, PromptError, Prompts, PromptWarning
from analogist.prompting.wording import WORDINGS, request

__all__ = [
    "ASKED_SIZE", "WORDINGS", "AskingPrompter", "AutoPrompter", "FilePrompter", "LocalPrompter", "NoPrompter", "OpenAIPrompter",
    "PromptError", "PromptWarning", "Prompter", "Prompts", "TextPrompter", "ask_all", "cache_folder", "is_refusal", "parse_answer",
    "read_prompt_file", "request",
]  # fmt: skip
