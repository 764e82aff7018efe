"""The arguments that say where text prompts come from, shared by `prompt`, `run` and `evaluate`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # --help imports neither Pillow nor torch
    from analogist.grid.prompt_grid import PromptGrid
    from analogist.prompting import Prompter, Prompts

PROMPTERS = ("text", "file", "none", "openai", "local", "auto")
ASKING = ("openai", "local", "auto")
# argument -> the prompters that take it
ONLY = {
    "base_url": ("openai", "auto"), "api_key": ("openai", "auto"), "prompter_timeout": ("openai", "auto"),
    "prompter_model": ASKING, "wording": ASKING, "candidates": ASKING, "words": ASKING, "max_tokens": ASKING,
    "prompter_device": ("local",), "prompter_dtype": ("local",),
}  # fmt: skip


def add_prompter_arguments(parser: argparse.ArgumentParser) -> "argparse._ArgumentGroup":
    """Adds --prompt, --prompt-file, --prompter and its settings, in a group; `prompter_from_arguments` reads them."""
    text = parser.add_argument_group("text prompt")
    text.add_argument("--prompt", metavar="TEXT", help="what B' shows")
    text.add_argument(
        "--prompt-file", metavar="FILE", help="one prompt a line, each run in turn, or lines of name TAB prompt [TAB prompt]"
    )
    text.add_argument(
        "--prompter", choices=PROMPTERS,
        help="who finds the prompt: --prompt, --prompt-file, nobody, an OpenAI-compatible endpoint, a model on this machine, or "
        "auto: the endpoint if one is set up and answers, else nobody",
    )  # fmt: skip
    text.add_argument("--prompter-model", metavar="NAME", help="its name at the endpoint (OPENAI_MODEL), or a folder or hub id")
    text.add_argument("--base-url", metavar="URL", help="of the endpoint, such as http://localhost:8000/v1 (OPENAI_BASE_URL)")
    text.add_argument(
        "--api-key", metavar="KEY", help="better as OPENAI_API_KEY: arguments can be seen by other users; never recorded"
    )
    text.add_argument(
        "--wording", choices=("published", "json"), help="of the question: the authors' (default), or one that asks for JSON"
    )
    text.add_argument("--candidates", type=int, metavar="N", help="prompts to ask for, 1..10 (default 1)")
    text.add_argument(
        "--words", type=int, metavar="N", help="a prompt is cut to so many words, 0 for all (default 5, as published)"
    )
    text.add_argument(
        "--max-tokens", type=int, metavar="N", help="of the answer (default: 300 for openai, as published; 60 for local)"
    )
    text.add_argument("--prompter-timeout", type=float, metavar="S", help="seconds an attempt may take (default 120)")
    text.add_argument(
        "--prompter-device", metavar="D", help="of a local model: cpu, cuda, cuda:1 or mps (default: the best there is)"
    )
    text.add_argument("--prompter-dtype", metavar="T", help="of a local model: float32, bfloat16 or float16 (default as --dtype)")
    text.add_argument("--no-prompt-cache", action="store_true", help="ask even where the same question was answered before")
    return text


def prompter_from_arguments(args: argparse.Namespace) -> "Prompter | None":
    """The prompter that the arguments describe, None where they say nothing. Raises ValueError for what does not go together."""
    from analogist.prompting import AutoPrompter, FilePrompter, LocalPrompter, NoPrompter, OpenAIPrompter, TextPrompter

    if args.prompt is not None and args.prompt_file is not None:
        raise ValueError("--prompt and --prompt-file do not go together; give one")
    kind = args.prompter or ("text" if args.prompt is not None else "file" if args.prompt_file is not None else None)
    for flag, value, of in (("--prompt", args.prompt, "text"), ("--prompt-file", args.prompt_file, "file")):
        if value is not None and kind != of:
            raise ValueError(f"{flag} and --prompter {kind} do not go together; give one")
        if value is None and kind == of:
            raise ValueError(f"--prompter {of} needs {flag}")
    for name, takes in ONLY.items():
        if getattr(args, name) is not None and kind not in takes:
            flag = "--" + name.replace("_", "-")
            raise ValueError(
                f"{flag} is for --prompter {' or '.join(takes)}" + (f", not {kind}" if kind else "; give it as well")
            )
    asking: dict[str, Any] = {"wording": args.wording, "candidates": args.candidates, "max_tokens": args.max_tokens}
    asking = {key: value for key, value in asking.items() if value is not None} | {"cache": not args.no_prompt_cache}
    if args.words is not None:
        asking["words"] = args.words or None
    match kind:
        case None:
            return None
        case "text":
            return TextPrompter(args.prompt) if args.prompt is not None and args.prompt.strip() else NoPrompter()
        case "file":
            assert args.prompt_file is not None, "checked above"
            return FilePrompter(args.prompt_file)
        case "none":
            return NoPrompter()
        case "local":
            if args.prompter_model is None:
                raise ValueError("--prompter local needs --prompter-model, the folder or hub id of a vision-language model")
            return LocalPrompter(args.prompter_model, device=args.prompter_device, dtype=args.prompter_dtype, **asking)

    def endpoint() -> OpenAIPrompter:
        timeout = {} if args.prompter_timeout is None else {"timeout": args.prompter_timeout}
        return OpenAIPrompter(args.prompter_model, base_url=args.base_url, api_key=args.api_key, **timeout, **asking)

    given = args.base_url is not None or args.api_key is not None
    return endpoint() if kind == "openai" else AutoPrompter(endpoint, configured=True if given else None)


def prompts_from_arguments(args: argparse.Namespace, grid: "PromptGrid") -> "Prompts | None":
    """The prompts for a grid; None where the arguments say nothing. Raises PromptError where none can be had."""
    prompter = prompter_from_arguments(args)
    if prompter is None:
        return None
    return prompter(grid, None if getattr(args, "grid", None) is None else Path(args.grid).name)
