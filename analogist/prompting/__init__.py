"""Where text prompts come from: given, a file, an OpenAI-compatible endpoint, or a local vision-language model.

Every prompter is called with a grid and returns Prompts:

    prompts = OpenAIPrompter("qwen2.5-vl-7b", base_url="http://localhost:8000/v1")(grid)
    result = model(grid, prompts.first)
"""

from typing import TYPE_CHECKING

from analogist.names import load_on_use

if TYPE_CHECKING:
    from analogist.disk.cache_folder import cache_folder
    from analogist.prompting.asking import ASKED_SIZE, AskingPrompter
    from analogist.prompting.automatic import AutoPrompter
    from analogist.prompting.chat import OpenAIPrompter
    from analogist.prompting.given import FilePrompter, NoPrompter, TextPrompter, read_prompt_file
    from analogist.prompting.local import LocalPrompter
    from analogist.prompting.many import ask_all
    from analogist.prompting.parse import Answer, is_refusal, parse_answer, read_answer
    from analogist.prompting.prompts import NoAnswer, Prompter, PromptError, Prompts, PromptWarning
    from analogist.prompting.wording import WORDINGS, request, stricter

__all__ = [
    "ASKED_SIZE", "WORDINGS", "Answer", "AskingPrompter", "AutoPrompter", "FilePrompter", "LocalPrompter", "NoAnswer", "NoPrompter",
    "OpenAIPrompter", "PromptError", "PromptWarning", "Prompter", "Prompts", "TextPrompter", "ask_all", "cache_folder", "is_refusal",
    "parse_answer", "read_answer", "read_prompt_file", "request", "stricter",
]  # fmt: skip

_PLACES = {
    "cache_folder": "analogist.disk.cache_folder",
    "ASKED_SIZE": "analogist.prompting.asking",
    "AskingPrompter": "analogist.prompting.asking",
    "AutoPrompter": "analogist.prompting.automatic",
    "OpenAIPrompter": "analogist.prompting.chat",
    "FilePrompter": "analogist.prompting.given",
    "NoPrompter": "analogist.prompting.given",
    "TextPrompter": "analogist.prompting.given",
    "read_prompt_file": "analogist.prompting.given",
    "LocalPrompter": "analogist.prompting.local",
    "ask_all": "analogist.prompting.many",
    "Answer": "analogist.prompting.parse",
    "is_refusal": "analogist.prompting.parse",
    "parse_answer": "analogist.prompting.parse",
    "read_answer": "analogist.prompting.parse",
    "Prompter": "analogist.prompting.prompts",
    "NoAnswer": "analogist.prompting.prompts",
    "PromptError": "analogist.prompting.prompts",
    "Prompts": "analogist.prompting.prompts",
    "PromptWarning": "analogist.prompting.prompts",
    "WORDINGS": "analogist.prompting.wording",
    "request": "analogist.prompting.wording",
    "stricter": "analogist.prompting.wording",
}

if not TYPE_CHECKING:  # a checker takes any name to exist where it sees these
    __getattr__, __dir__ = load_on_use(__name__, _PLACES)
