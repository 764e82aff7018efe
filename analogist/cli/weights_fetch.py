"""`analogist weights list` and `analogist weights fetch`: lists the checkpoints known to work, and downloads them."""

import argparse

EXAMPLES = """examples:
  analogist weights fetch sd15-inpainting                  a name of `analogist weights list`
  analogist weights fetch sd15-inpainting --dtype fp16     half the size, for a GPU
  analogist weights fetch owner/name                       any hub repository, as a folder or one file
  analogist weights fetch owner/name@revision:file.safetensors
  HF_ENDPOINT=https://mirror.example analogist weights fetch sd2-inpainting

Files go into the hub cache that other tools share (HF_HUB_CACHE, HF_HOME). Interrupted downloads are resumed, finished files are
kept, and every weight file's hash is checked before it is used. HF_TOKEN is used if set. Pickles and safety checkers are not downloaded.
"""


def add_parsers(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the subcommands `list` and `fetch`."""
    listing = commands.add_parser(
        "list",
        help="list the checkpoints known to work: source, size, licence",
        description="Lists the checkpoints known to work: hub repository and revision, size, licence, mirrors.",
        epilog="examples:\n  analogist weights list\n  HF_HUB_CACHE=/data/hub analogist weights list      marks what this cache holds",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    listing.set_defaults(run=run_list)
    fetch = commands.add_parser(
        "fetch",
        help="download a checkpoint by name or hub id",
        description="Downloads a checkpoint into the hub cache, only the files that are needed, and prints its path.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    fetch.add_argument(
        "name", metavar="NAME", help="a name of `analogist weights list`, or a hub id owner/name[@revision][:file]"
    )
    fetch.add_argument(
        "--dtype", choices=("fp16", "fp32"), help="precision of the files, if there is a choice (default: fp16)"
    )
    fetch.add_argument("--quiet", action="store_true", help="no progress bars")
    fetch.set_defaults(run=run_fetch)


def run_list(args: argparse.Namespace) -> int:
    """Prints the list, marking what is in the cache."""
    from analogist.checkpoints import hub
    from analogist.weights.configs import read_json
    from analogist.weights.embedded import EMBEDDED
    from analogist.weights.known import FILE, known

    for name, what in EMBEDDED.items():
        print(f"{name}: {what}\n    comes with the package; nothing to download")
    for entry in known().values():
        print(f"{entry.name}: {entry.what}\n    licence  {entry.licence}, {entry.licence_url}")
        for source in entry.sources:
            cached = ", in the cache" if hub.in_cache(source) is not None else ""
            gated = ", gated" if source.gated else ""
            size = "" if source.bytes is None else f", {source.bytes / 1e9:.2f} GB"
            print(f"    {source.dtype}     {source}{size}{gated}{cached}; {source.note}")
        for gone in entry.gone:
            print(f"    gone     {gone}")
    print(f"As known on {read_json(FILE)['checked']}. `analogist weights fetch NAME` downloads one; --checkpoint NAME uses it.")
    return 0


def run_fetch(args: argparse.Namespace) -> int:
    """Downloads and prints the path."""
    from analogist.checkpoints import hub

    if hub.is_local(args.name):
        hub.sources_of(args.name)  # its error says what a name may be
    print(hub.fetch(args.name, dtype=args.dtype or "fp16", progress=not args.quiet))
    return 0
