"""The command `analogist`, with one file per subcommand. Bad arguments and bad input give a one-line error and exit code 2."""

import argparse
import codecs
import contextlib
import os
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from typing import TextIO

from analogist import __version__
from analogist.cli import ablate, data, evaluate, explore, grid, merge, prompt, report, run, tasks, weights
from analogist.disk.writing import shown

EPILOG = """examples:
  analogist run --example drawing-invert --out out             B' for a bundled example, with the embedded lab checkpoint
  analogist run --a a.png --a-prime ap.png --b b.png --prompt "a red boat" --checkpoint sd-v1-5-inpainting.safetensors --out out
  analogist grid --a a.png --a-prime ap.png --b b.png --out out
  analogist prompt --grid grid.png --prompter openai --base-url http://localhost:8000/v1
  analogist explore out -o look.html                     an interactive page of a run's attention (run made with --explore)
  analogist weights inspect sd-v1-5-inpainting.safetensors

Every command has --help with its own examples. Exit code: 0 success, 1 out of memory, 2 bad arguments or input, 130 interrupted."""


class Parser(argparse.ArgumentParser):
    """A parser whose argument errors are one line."""

    def __init__(self, *args, **kwargs) -> None:
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(*args, **kwargs)

    def error(self, message: str) -> None:
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = Parser(prog="analogist", description="Visual in-context learning by analogy: A : A' :: B : B'.", epilog=EPILOG)
    parser.add_argument("--version", action="version", version=f"analogist {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    for module in (run, explore, grid, prompt, tasks, weights, ablate, merge, data, evaluate, report):
        module.add_parser(commands)
    return parser


def one_line(message: object) -> str:
    """A message without line breaks, for standard error."""
    return " ".join(str(message).split())


@contextlib.contextmanager
def printable(stream: TextIO) -> Iterator[None]:
    """Within this context, printing never fails: characters that the stream's encoding lacks become escapes, bytes of file names stay."""
    before = getattr(stream, "errors", None)
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is None:
        yield
        return
    reconfigure(errors=ESCAPED)
    try:
        yield
    finally:
        reconfigure(errors=before)


def _escaped(error: UnicodeError) -> tuple[bytes, int]:
    """Error handler for encoding: bytes that a file name was read from, as they were; other characters as escapes such as \\u8f93."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    out = b""
    for character in error.object[error.start : error.end]:
        raw = 0xDC80 <= ord(character) <= 0xDCFF
        out += bytes([ord(character) - 0xDC00]) if raw else character.encode("ascii", "backslashreplace")
    return out, error.end


ESCAPED = "analogist-escaped"
codecs.register_error(ESCAPED, _escaped)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the console script; returns the exit code."""
    with printable(sys.stdout):
        args = build_parser().parse_args(argv)
        code = _run(args)
        try:
            sys.stdout.flush()
        except BrokenPipeError:  # what the interpreter flushes at its end goes nowhere
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        except OSError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            print(f"analogist {args.command}: error: standard output: {one_line(error.strerror or error)}", file=sys.stderr)
            return code or 2
        return code


def _run(args: argparse.Namespace) -> int:
    name = f"analogist {args.command}"
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: print(f"{name}: note: {one_line(message)}", file=sys.stderr)
        try:
            return args.run(args)
        except BrokenPipeError:
            return 0  # whoever read the output has seen enough
        except (ValueError, OSError) as error:
            print(f"{name}: error: {one_line(error)}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print(f"{name}: interrupted; all files written so far are complete", file=sys.stderr)
            return 130
        except (MemoryError, RuntimeError) as error:
            short = ("out of memory", "can't allocate memory", "cannot allocate memory")
            if isinstance(error, RuntimeError) and not any(words in str(error).lower() for words in short):
                return _unexpected(name, error, args)
            print(f"{name}: error: out of memory ({one_line(error)}); try a smaller --size, --batch 1 or --dtype bfloat16", file=sys.stderr)
            return 1
        except Exception as error:
            return _unexpected(name, error, args)


def _unexpected(name: str, error: Exception, args: argparse.Namespace) -> int:
    """A fault of the program, or content that no check foresaw: one line too, which names the files given and where it happened."""
    if os.environ.get("ANALOGIST_TRACEBACK"):
        raise error
    place = traceback.extract_tb(error.__traceback__)[-1]
    flat = [one for value in vars(args).values() for one in (value if isinstance(value, list) else [value])]
    files = [shown(one) for one in flat if isinstance(one, str) and one and "\0" not in one and os.path.exists(one)]
    where = f"{os.path.basename(place.filename)}, line {place.lineno}"
    given = f"; given: {', '.join(files)}" if files else ""
    said = f"unexpected {type(error).__name__} in {where}: {one_line(error)[:300]}{given}; ANALOGIST_TRACEBACK=1 shows more"
    print(f"{name}: error: {said}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
