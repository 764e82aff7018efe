"""`analogist weights inspect`: what a checkpoint file or folder holds, from its headers alone."""

import argparse
from typing import TYPE_CHECKING

from analogist.cli import weights_convert, weights_fetch, weights_verify

if TYPE_CHECKING:  # --help imports no torch
    from analogist.weights.strict import Comparison
    from analogist.weights.survey import PartSurvey, Survey

EXAMPLES = """examples:
  analogist weights inspect sd-v1-5-inpainting.safetensors
  analogist weights inspect stable-diffusion-2-inpainting/ --variant fp16
  analogist weights inspect small.safetensors --config its-folder/

Nothing is loaded: names, types and shapes come from the files' headers. Pickles (.ckpt, .bin, .pt) are never opened.
Exit code 0 if the path could be described, usable or not (the last line says which); 2 if it is not a checkpoint file at all.
"""
SHOWN = 8


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> argparse.ArgumentParser:
    """Adds the command `weights` with its subcommands."""
    parser = subparsers.add_parser(
        "weights",
        help="look at checkpoint files, fetch known ones, verify, convert",
        description="Looks at checkpoint files, fetches known ones, verifies and converts them.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="weights_command", required=True, metavar="subcommand")
    inspect = commands.add_parser(
        "inspect",
        help="show family, layout, parts, dtypes, parameters, what is missing or extra",
        description="Prints a checkpoint's family, layout, parts, dtypes and parameter counts, and what is missing or extra.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    inspect.add_argument("path", metavar="PATH", help="a .safetensors file, or a folder in diffusers layout")
    inspect.add_argument("--config", metavar="PATH", help="folder or JSON file with settings beyond the tensor shapes (heads, norm groups)")
    inspect.add_argument("--variant", metavar="NAME", help='of the files in a folder, such as "fp16" (default: the plain files, else fp16)')
    inspect.set_defaults(run=run)
    weights_fetch.add_parsers(commands)
    weights_verify.add_parser(commands)
    weights_convert.add_parser(commands)
    return parser


def run(args: argparse.Namespace) -> int:
    """Prints the description. Raises WeightsError if the path is not a checkpoint file at all."""
    from analogist.weights.survey import survey

    for line in describe(survey(args.path, config=args.config, variant=args.variant)):
        print(line)
    return 0


def describe(found: "Survey") -> list[str]:
    """A survey as lines of text."""
    lines = [
        f"path        {found.path}",
        f"family      {found.family.name}: {found.family.text}",
        f"layout      {found.layout}",
    ]
    whole = True
    for part in found.parts:
        held = ", ".join(f"{count} {dtype}" for dtype, count in sorted(part.types.items()))
        where = f", names after {part.prefix!r}" if part.prefix else ""
        lines.append(
            f"{part.kind:<12}{part.tensors} tensors ({held}), {part.parameters:,} parameters, {part.bytes / 2**20:,.1f} MiB, "
            f"{part.layout} names{where}"
        )
        if part.problem is not None:
            lines.append(f"            {part.problem}")
            whole = False
        if part.fields is None:
            continue
        if part.problem is None:
            lines.append("            " + ", ".join(f"{name} {_short(value)}" for name, value in part.fields.items()))
        result = compare_part(part)
        lines += [f"            {line}" for line in result.lines()] or ["            0 missing, 0 extra"]
        whole = whole and result.fits
    wanted = ("unet", "vae", "text", "text_2") if found.family.base == "sdxl" else ("unet", "vae", "text")
    absent = [kind for kind in wanted if kind not in {part.kind for part in found.parts}]
    lines += [f"{kind:<12}not there" for kind in absent]
    lines += [f"ignored     {count} {why}" for why, count in found.leftovers.items()]
    if found.other and not found.parts:
        more = f" and {len(found.other) - SHOWN} more" if len(found.other) > SHOWN else ""
        lines.append(f"unknown     {len(found.other)} tensors: {', '.join(name[:160] for name in found.other[:SHOWN])}{more}")
    lines += [f"note        {note}" for note in found.notes]
    if found.problem is not None:
        return [*lines, f"usable      no: {found.problem}"]
    return [*lines, "usable      yes" if whole else "usable      no: tensors are missing, extra or of the wrong shape (see above)"]


def compare_part(part: "PartSurvey") -> "Comparison":
    """Compares a surveyed part with the network it is loaded into, which is built on the meta device."""
    import torch

    from analogist.models.clip_text import CLIPText, CLIPTextConfig
    from analogist.models.unet import UNet, UNetConfig
    from analogist.models.vae import VAE, VAEConfig
    from analogist.weights.checkpoint import TEXTS
    from analogist.weights.strict import compare, prefixed

    assert part.fields is not None, "a part of a known geometry"
    with torch.device("meta"):
        match part.kind:
            case "unet":
                module = UNet(UNetConfig(**part.fields))
            case "vae":
                module = VAE(VAEConfig(**part.fields))
            case "text_2":
                module = CLIPText(CLIPTextConfig(**part.fields), projected=True)
            case _:
                module = CLIPText(CLIPTextConfig(**part.fields))
    return compare(prefixed(part.mapped, module) if part.kind in TEXTS else part.mapped, part.outside, module)


def _short(value: object) -> str:
    return "x".join(map(str, value)) if isinstance(value, tuple) else str(value)
