"""The command `analogist`: one subcommand a file; bad arguments and input end in one line and exit code 2."""

import argparse
import sys
import warnings
from collections.abc import Sequence

from analogist import __version__
from analogist.cli import ablate, data, evaluate, explore, grid, merge, prompt, report, run, tasks, weights

EPILOG = """examples:
  analogist run --example recolour --out out             B' for a bundled example, with the embedded lab checkpoint
  analogist run --a a.png --a-prime ap.png --b b.png --prompt "a red boat" --checkpoint sd-v1-5-inpainting.safetensors --out out
  analogist grid --a a.png --a-prime ap.png --b b.png --out out
  analogist prompt --grid grid.png --prompter openai --base-url http://localhost:8000/v1
  analogist explore out -o look.html                     a page to look at attention in, from a run made with --explore
  analogist weights inspect sd-v1-5-inpainting.safetensors

Every command has --help with its own examples. Exit code: 0 success, 1 out of memory, 2 bad arguments or input, 130 interrupted."""


class Parser(argparse.ArgumentParser):
    """Argument errors are one line too."""

    def __init__(self, *args, **kwargs) -> None:
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(*args, **kwargs)

    def error(self, message: str) -> None:
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="analogist", description="Visual in-context learning by analogy: A : A' :: B : B'.", epilog=EPILOG)
    parser.add_argument("--version", action="version", version=f"analogist {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    for module in (run, explore, grid, prompt, tasks, weights, ablate, merge, data, evaluate, report):
        module.add_parser(commands)
    return parser


def one_line(message: object) -> str:
    """A message without line breaks, for standard error."""
    return " ".join(str(message).split())


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the console script; returns the exit code."""
    args = build_parser().parse_args(argv)
    name = f"analogist {args.command}"
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: print(f"{name}: note: {one_line(message)}", file=sys.stderr)
        try:
            return args.run(args)
        except (ValueError, OSError) as error:
            print(f"{name}: error: {one_line(error)}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print(f"{name}: interrupted; files already written are whole", file=sys.stderr)
            return 130
        except (MemoryError, RuntimeError) as error:
            short = ("out of memory", "can't allocate memory", "cannot allocate memory")
            if isinstance(error, RuntimeError) and not any(words in str(error).lower() for words in short):
                raise
            print(f"{name}: error: out of memory ({one_line(error)}); try a smaller --size, --batch 1 or --dtype bfloat16", file=sys.stderr)
            return 1


if __name__ == "__main__":
    sys.exit(main())
