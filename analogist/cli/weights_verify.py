"""`analogist weights verify`: checks whether a checkpoint is complete and works."""

import argparse

EXAMPLES = """examples:
  analogist weights verify sd-v1-5-inpainting.safetensors
  analogist weights verify sd15-inpainting                 a known name or hub id that was fetched

Reads every byte. Exit code 0 if everything passed, 1 if something failed, 2 if the path does not exist.
"""


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the subcommand `verify`."""
    parser = commands.add_parser(
        "verify",
        help="check that it is complete, has the published hash, holds finite numbers, and runs one tiny UNet call",
        description="Checks that a checkpoint is complete, is the published file if a hash is known, holds finite numbers, and works.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("path", metavar="PATH", help="a .safetensors file, a folder in diffusers layout, a known name or hub id")
    parser.add_argument("--config", metavar="PATH", help="folder or JSON file with settings beyond the tensor shapes (heads, norm groups)")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Prints one line per finding."""
    from analogist.checkpoints import hub
    from analogist.checkpoints.verify import verify

    failed = False
    for check in verify(hub.find(args.path, progress=not args.quiet), config=args.config, progress=not args.quiet):
        mark = {True: "ok", False: "FAILED", None: "unknown"}[check.passed]
        print(f"{check.name:<10} {mark:<8} {check.text}", flush=True)
        failed = failed or check.passed is False
    return 1 if failed else 0
