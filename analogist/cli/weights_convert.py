"""`analogist weights convert`: a checkpoint in the other layout, or in another precision."""

import argparse
import sys

EXAMPLES = """examples:
  analogist weights convert sd-v1-5-inpainting.safetensors sd15/                 one file -> a folder, as diffusers reads it
  analogist weights convert sd15/ sd15.safetensors                               a folder -> one file, as most programs read it
  analogist weights convert sd15/ sd15-half/ --dtype fp16                        half the size

OUT is a single file if it ends in .safetensors, else a folder. It is written under a temporary name and renamed when complete; nothing is
overwritten. Pickles (.ckpt, .bin) are never opened.
"""
DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the subcommand `convert`."""
    parser = commands.add_parser(
        "convert",
        help="convert a single file to a folder or back, or change the precision",
        description="Writes a copy of a checkpoint in the other layout or in another precision.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", metavar="IN", help="a .safetensors file, a folder in diffusers layout, a known name or hub id")
    parser.add_argument("out", metavar="OUT", help="OUT.safetensors, or a folder")
    parser.add_argument("--dtype", choices=tuple(DTYPES), help="precision of the weights to write (default: as on disk)")
    parser.add_argument("--config", metavar="PATH", help="folder or JSON file with settings beyond the tensor shapes (heads, norm groups)")
    parser.add_argument("--vae", metavar="PATH", help="file or folder whose VAE is used instead")
    parser.add_argument("--variant", metavar="NAME", help='of the files in a folder, such as "fp16"')
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Writes and prints the files."""
    import torch
    from tqdm import tqdm

    from analogist.checkpoints import hub
    from analogist.checkpoints.tokenizer_files import tokenizer_files
    from analogist.checkpoints.verify import demand_complete
    from analogist.weights.convert import convert
    from analogist.weights.load import open_checkpoint

    source = hub.find(args.source, dtype=args.dtype if args.dtype in ("fp16", "fp32") else None, progress=not args.quiet)
    opened = open_checkpoint(source, config=args.config, vae=args.vae, variant=args.variant)
    with tqdm(unit="B", unit_scale=True, desc="writing", disable=args.quiet, delay=1) as bar:
        report = convert(
            source, args.out, dtype=None if args.dtype is None else getattr(torch, DTYPES[args.dtype]), config=args.config, vae=args.vae,
            variant=args.variant, tokenizer=tokenizer_files(opened), progress=bar.update, check=demand_complete,
        )  # fmt: skip
    for note in report.notes:
        print(f"analogist weights: note: {note}", file=sys.stderr)
    print(f"{report.path}: {report.tensors} tensors, {report.bytes:,} bytes, {len(report.files)} file(s)")
    return 0
