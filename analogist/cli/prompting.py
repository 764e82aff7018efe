"""The arguments for where text prompts come from, shared by `prompt`, `run` and `evaluate`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # --help imports neither Pillow nor torch
    from analogist.grid.prompt_grid import PromptGrid
    from analogist.prompting import Prompter, Prompts

PROMPTERS = ("text", "file", "none", "openai", "local", "auto")
ASKING = ("openai", "local", "auto")
# argument -> the prompters that accept it
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
        "--prompt-file", metavar="FILE", help="one prompt per line, all of them run in turn; or lines of name TAB prompt [TAB prompt]"
    )
    text.add_argument(
        "--prompter", choices=PROMPTERS,
        help="source of the prompt: text (--prompt), file (--prompt-file), none, openai (an OpenAI-compatible endpoint), local (a model "
        "on this machine), or auto (the endpoint if one is set up and answers, else none)",
    )  # fmt: skip
    text.add_argument("--prompter-model", metavar="NAME", help="model to ask: name at the endpoint (or OPENAI_MODEL), folder or hub id")
    text.add_argument("--base-url", metavar="URL", help="address of the endpoint, such as http://localhost:8000/v1 (or OPENAI_BASE_URL)")
    text.add_argument(
        "--api-key", metavar="KEY", help="key of the endpoint, never recorded (safer in OPENAI_API_KEY: other users can see arguments)"
    )
    text.add_argument(
        "--wording", choices=("published", "json"), help="wording of the question: the authors' (default), or one that asks for JSON"
    )
    text.add_argument("--candidates", type=int, metavar="N", help="number of prompts to ask for, 1..10 (default 1)")
    text.add_argument(
        "--words", type=int, metavar="N", help="longest prompt in words, longer ones are cut; 0 for no limit (default 5, as published)"
    )
    text.add_argument(
        "--max-tokens", type=int, metavar="N", help="longest answer in tokens (default: 300 for openai, as published; 60 for local)"
    )
    text.add_argument("--prompter-timeout", type=float, metavar="S", help="longest time per attempt in seconds (default 120)")
    text.add_argument(
        "--prompter-device", metavar="D", help="device of a local model: cpu, cuda, cuda:1 or mps (default: cuda, else mps, else cpu)"
    )
    text.add_argument(
        "--prompter-dtype", metavar="T", help="of a local model: float32, bfloat16 or float16 (default: float16 on cuda, else float32)"
    )
    text.add_argument("--no-prompt-cache", action="store_true", help="ask even if the same question was answered before")
    return text


def prompter_from_arguments(args: argparse.Namespace) -> "Prompter | None":
    """The prompter that the arguments describe, None if they give none. Raises ValueError for arguments that exclude each other."""
    from analogist.prompting import AutoPrompter, FilePrompter, LocalPrompter, NoPrompter, OpenAIPrompter, TextPrompter

    if args.prompt is not None and args.prompt_file is not None:
        raise ValueError("--prompt and --prompt-file cannot be combined; give one")
    kind = args.prompter or ("text" if args.prompt is not None else "file" if args.prompt_file is not None else None)
    for flag, value, of in (("--prompt", args.prompt, "text"), ("--prompt-file", args.prompt_file, "file")):
        if value is not None and kind != of:
            raise ValueError(f"{flag} and --prompter {kind} cannot be combined; give one")
        if value is None and kind == of:
            raise ValueError(f"--prompter {of} needs {flag}")
    for name, takes in ONLY.items():
        if getattr(args, name) is not None and kind not in takes:
            flag = "--" + name.replace("_", "-")
            raise ValueError(
                f"{flag} needs --prompter {' or '.join(takes)}" + (f", not {kind}" if kind else "; give that too")
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
    """The prompts for a grid; None if the arguments name no prompter. Raises PromptError if no prompt can be found."""
    prompter = prompter_from_arguments(args)
    if prompter is None:
        return None
    return prompter(grid, None if getattr(args, "grid", None) is None else Path(args.grid).name)
