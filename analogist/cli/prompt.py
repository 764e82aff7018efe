"""`analogist prompt`: asks a vision-language model what B' shows."""

import argparse
import json
import sys

from analogist.cli.grid import add_grid_arguments, grid_from_arguments
from analogist.cli.prompting import add_prompter_arguments, prompts_from_arguments

EXAMPLES = """examples:
  analogist prompt --a a.png --a-prime ap.png --b b.png --prompter openai --prompter-model gpt-4o     (with OPENAI_API_KEY set)
  analogist prompt --grid grid.png --prompter openai --base-url http://localhost:8000/v1              (vLLM, llama.cpp, Ollama, ...)
  analogist prompt --grid grid.png --prompter local --prompter-model HuggingFaceTB/SmolVLM-Instruct --wording json
  analogist prompt --grid grid.png --prompter openai --candidates 3 --out prompts.txt                 (then run --prompt-file prompts.txt)

The model is shown the grid with letters and arrows, 512 px wide. Its answer is kept in ANALOGIST_CACHE or ~/.cache/analogist, so that
the same question is asked only once. If an answer holds no prompt (a refusal, for example), the model is asked once more with a
stricter question; such an answer is never painted. The prompts go to standard output, one per line, best first."""


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> argparse.ArgumentParser:
    """Adds the command `prompt`."""
    parser = subparsers.add_parser(
        "prompt",
        help="ask a vision-language model for the text prompt of B'",
        description="Asks a vision-language model for the text prompt of B', from the grid with letters and arrows.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_grid_arguments(parser)
    add_prompter_arguments(parser)
    parser.add_argument(
        "--out", metavar="FILE", help="also write the prompts to a file that `analogist run --prompt-file` reads"
    )
    parser.add_argument("--json", action="store_true", help="print a JSON object with the prompts and their source instead")
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Prints the prompts. Raises ValueError if there is none."""
    if args.prompter is None and args.prompt is None and args.prompt_file is None:
        raise ValueError("missing --prompter; give openai, local or auto")
    grid = grid_from_arguments(args)
    prompts = prompts_from_arguments(args, grid)
    assert prompts is not None, "a prompter was asked for"
    if not prompts.first:
        raise ValueError(f"no prompt: {prompts.author.get('because', 'none was asked for')}")
    if args.out is not None:
        from analogist.disk.writing import atomic_write

        atomic_write(args.out, "".join(f"{prompt}\n" for prompt in prompts.candidates).encode())
    if args.json:
        print(json.dumps({"prompts": list(prompts.candidates), "author": prompts.author}, indent=1, ensure_ascii=False))
        return 0
    print("\n".join(prompts.candidates))
    if prompts.author.get("cached"):
        print(f"analogist prompt: note: kept answer from {prompts.author['time']}; --no-prompt-cache asks again", file=sys.stderr)
    return 0
