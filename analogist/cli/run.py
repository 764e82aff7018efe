"""`analogist run`: three pictures and a checkpoint in, B' out."""

import argparse
import dataclasses
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, overload

from analogist.cli.explore import page_bytes
from analogist.cli.grid import add_grid_arguments, grid_from_arguments
from analogist.cli.prompting import add_prompter_arguments, prompter_from_arguments, prompts_from_arguments
from analogist.run.layers import HELP as LAYERS
from analogist.run.layers import parse_layers

if TYPE_CHECKING:  # --help imports neither Pillow nor torch
    from analogist.grid.prompt_grid import PromptGrid
    from analogist.pipeline import Analogist
    from analogist.run.output import Repeat

EXAMPLES = """examples:
  analogist run --example drawing-invert --out out
  analogist run --a a.png --a-prime ap.png --b b.png --prompt "a red boat" --checkpoint sd-v1-5-inpainting.safetensors --out out
  analogist run --grid grid.png --prompt-file prompts.txt --images 4 --sac-layers 4-8 --cam-layers none --out out
  analogist run --a a.png --a-prime ap.png --b b.png --prompter openai --base-url http://localhost:8000/v1 --out out
  analogist run --task deblur --a a.png --a-prime ap.png --b b.png --fit crop --checkpoint sd-v1-5-inpainting.safetensors --out out
  analogist run --list triples.csv --steps 30 --out out   (a folder for each line; run it again to resume it)
  analogist run --config out/run.json --out again        (repeats a run: the same picture bytes on the same machine)
  analogist run --config study/pictures/boat_42_0a1b2c.png --out again      (repeats one run of a study from its picture)

Without --prompt, --prompt-file or --prompter the pictures alone say what to paint.

Layer ranges include both ends here: 3-10 is Placement.layers(3, 11) in Python.
DIR gets input.png, b_prime_<seed>.png, grid_<seed>.png (with several prompts b_prime_<prompt>_<seed>.png) and run.json.
With --list each line gets this as DIR/<name>; columns are a, a_prime, b, and optionally b_prime, prompt, name, group, with paths
beside the file. Lines whose run.json exists are not run again."""


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> argparse.ArgumentParser:
    """Adds the command `run`."""
    parser = subparsers.add_parser(
        "run",
        help="paint B' from A, A' and B",
        description="Paints B' so that A : A' :: B : B'. Settings not given are the checkpoint's own, else the published ones.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_grid_arguments(parser)
    parser.add_argument("--example", metavar="NAME", help="a bundled example instead of pictures, with its prompt ('list' names them)")
    parser.add_argument("--list", metavar="FILE.csv", help="many triples of pictures instead, one run each (columns: see below)")
    text = add_prompter_arguments(parser)
    text.add_argument("--negative-prompt", metavar="TEXT", help="default: the checkpoint's own, else the published list of words")
    text.add_argument("--prompt-suffix", metavar="TEXT", help="appended to every prompt (default: ', best quality, extremely detailed')")
    model = parser.add_argument_group("model")
    model.add_argument("--checkpoint", metavar="PATH", help="file, folder, name of `weights list` or hub id (default: the lab checkpoint)")
    model.add_argument("--checkpoint-config", metavar="PATH", help="folder or JSON file with settings beyond the tensor shapes")
    model.add_argument("--vae", metavar="PATH", help="file or folder, for checkpoints that hold no VAE")
    model.add_argument("--ema", action="store_true", help="take the EMA weights where a file holds both")
    model.add_argument("--lora", metavar="FILE[:SCALE]", action="append", help="a LoRA file or PEFT folder to merge; may be repeated")
    model.add_argument("--device", help="cpu, cuda, cuda:1 or mps (default: cuda, else mps, else cpu)")
    model.add_argument("--dtype", help="float32, bfloat16, float16, or tf32 on cuda (default: float16 on cuda, else float32)")
    model.add_argument("--compile", action="store_true", help="compile the UNet: minutes at first, then faster steps (GPUs only)")
    model.add_argument("--channels-last", action="store_true", help="order pictures in memory with their channels last")
    model.add_argument("--attention", choices=("auto", "explicit", "fused"), help="form of attention (default: auto)")
    model.add_argument("--batch", type=int, metavar="N", help="images in one UNet call (default: as many as memory allows)")
    settings = parser.add_argument_group("settings")
    settings.add_argument("--task", metavar="NAME", help="published settings of a task (see `analogist tasks`); flags override them")
    settings.add_argument(
        "--aligned", choices=("a-a_prime", "a-b", "none"),
        help="which pictures show the same things in the same places: A and A' (default), A and B (A' and B change places in what the "
        "model sees), or none (SAC off)",
    )  # fmt: skip
    settings.add_argument(
        "--config", metavar="FILE",
        help="a configuration, or a run to repeat: its run.json, or a picture of a run or study; other flags override it",
    )  # fmt: skip
    settings.add_argument("--images", type=int, metavar="N", help="how many, with seeds S, S+1, ... (default 1)")
    settings.add_argument("--seed", type=int, metavar="S", help="default 42")
    settings.add_argument("--steps", type=int, metavar="N", help="of the whole schedule (published: 50)")
    settings.add_argument("--strength", type=float, metavar="X", help="part of the schedule to run, above 0, at most 1 (published: 0.98)")
    settings.add_argument("--guidance", type=float, metavar="X", help="classifier-free guidance, 1 is off (published: 15)")
    settings.add_argument("--eta", type=float, metavar="X", help="0 is deterministic DDIM (published), 1 has DDPM's noise")
    settings.add_argument("--sac-layers", metavar="LAYERS", help=f"Self-Attention Cloning: {LAYERS} (published: 3-10)")
    settings.add_argument("--cam-layers", metavar="LAYERS", help="Cross-Attention Masking: the same (published: 3-10)")
    settings.add_argument(
        "--sac-scale", type=scale_argument, metavar="X[,X..]",
        help="s in M(A',B') := s M(A,B) (published: 1.3); several: one for each example pair",
    )  # fmt: skip
    settings.add_argument("--sac-blend", type=float, metavar="X", help="0 to 1: the part of the clone in what SAC writes (published: 1)")
    settings.add_argument(
        "--sac-align", action=argparse.BooleanOptionalAction, default=None,
        help="give each cloned row the maximum of the row it replaces (published: off)",
    )  # fmt: skip
    settings.add_argument(
        "--sac-scaled", type=scale_argument, metavar="X[,Y]",
        help="multiply, in place of cloning: what B' reads of A' by X, all other blocks by Y (default 1)",
    )  # fmt: skip
    parser.add_argument("--out", metavar="DIR", help="folder to write into; created if it is missing")
    parser.add_argument(
        "--explore", type=float, nargs="?", const=20, metavar="MB",
        help="keep attention too: writes look.html, a page that shows it (at most MB megabytes, default 20), and maps.safetensors",
    )  # fmt: skip
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    parser.set_defaults(run=run)
    return parser


def scale_argument(text: str) -> float | tuple[float, ...]:
    """"1.3" -> 1.3, "1.3,0.5" -> (1.3, 0.5): SAC's s, one for all example pairs or one for each."""
    try:
        scales = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a scale; give a number, or one for each example pair, such as 1.3,0.5") from None
    return scales[0] if len(scales) == 1 else scales


def settings_from_arguments(args: argparse.Namespace, config):
    """The configuration, changed by the flags that were given."""
    from analogist.models.control import CAM, SAC

    sampling = {key: getattr(args, key) for key in ("steps", "strength", "guidance", "eta") if getattr(args, key) is not None}
    sac, cam = config.sac, config.cam
    if args.aligned == "none":
        given = [name for name in ("layers", "scale", "blend", "align", "scaled") if getattr(args, f"sac_{name}") is not None]
        if given:
            raise ValueError(f"--aligned none turns SAC off; leave out {', '.join(f'--sac-{name}' for name in given)}, or the alignment")
        sac = None
    if args.sac_layers is not None:
        placement = parse_layers(args.sac_layers, "--sac-layers")
        sac = None if placement is None else dataclasses.replace(sac or SAC(), placement=placement)
    if args.sac_scale is not None:
        if sac is None:
            raise ValueError("--sac-scale given, but SAC is off; give --sac-layers as well")
        sac = dataclasses.replace(sac, scale=args.sac_scale)
    variants = {name: value for name in ("blend", "align") if (value := getattr(args, f"sac_{name}")) is not None}
    if args.sac_scaled is not None:
        factor, others, *more = (*(args.sac_scaled if isinstance(args.sac_scaled, tuple) else (args.sac_scaled,)), 1.0)
        if len(more) > 1:
            raise ValueError("--sac-scaled: give the factor of what B' reads of A', and at most one more, for all other blocks")
        variants |= {"clone": None, "scaled": factor, "others": others}
    if variants:
        if sac is None:
            flag = next(name for name in ("blend", "align", "scaled") if getattr(args, f"sac_{name}") is not None)
            raise ValueError(f"--sac-{flag} given, but SAC is off; give --sac-layers as well")
        sac = dataclasses.replace(sac, **variants)
    if args.cam_layers is not None:
        placement = parse_layers(args.cam_layers, "--cam-layers")
        cam = None if placement is None else dataclasses.replace(cam or CAM(), placement=placement)
    return config.replace(sac=sac, cam=cam, **sampling)


def run(args: argparse.Namespace) -> int:
    """Loads, samples and writes DIR."""
    if args.example == "list":
        from analogist import examples

        print("\n".join(examples.names()))
        return 0

    from analogist.checkpoints.loras import check_given, check_repeat, from_flag
    from analogist.cli.run_list import check_list_arguments, run_list
    from analogist.config import AnalogistConfig
    from analogist.pipeline import Analogist
    from analogist.run.output import Repeat
    from analogist.run.tasks import task

    page = None if args.explore is None else page_bytes(args.explore, "--explore")
    pictures = any(value is not None for value in (args.a, args.a_prime, args.b, args.grid))
    if args.list is not None:
        check_list_arguments(args)
    if args.example is not None and pictures:
        raise ValueError("--example brings its own pictures; leave out --a, --a-prime, --b and --grid")
    if args.rows is not None and args.grid is None:
        raise ValueError("--rows belongs to --grid; give a ready grid with it")
    if (args.fit is not None or args.borderless) and not pictures and args.list is None:
        raise ValueError("--fit and --borderless are for the pictures of --a, --a-prime and --b, of --grid or of --list; give them as well")
    if args.task is not None:
        if args.config is not None:
            raise ValueError("--task and --config do not go together; give one, and flags for what differs")
        preset = task(args.task)
        args.size, args.aligned = args.size or preset.size, args.aligned or preset.aligned
    repeat = Repeat(args.config) if args.config is not None and Repeat.is_record(args.config) else None
    if repeat is not None and args.list is not None:
        raise ValueError(f"{args.config} is the record of a run, which --list does not repeat; give a configuration")
    kept = {} if repeat is None else repeat.record
    if args.out is None and repeat is None:
        raise ValueError("missing --out DIR, the folder to write into")
    if args.out is not None:
        out = Path(args.out)
    else:
        assert repeat is not None, "checked above"
        out = beside(repeat.path.resolve().parent)
    one = None if args.list is not None else analogy_from(args, repeat)
    rows = [] if args.list is None else read_rows(args)

    def given(flag, key: str, otherwise):
        return flag if flag is not None else kept.get(key, otherwise)

    checkpoint = args.checkpoint if args.checkpoint is not None else kept.get("checkpoint", {}).get("path")
    extras = kept.get("inputs", {})
    loading = {
        "config": given(args.checkpoint_config, "", extras.get("checkpoint_config")),
        "vae": given(args.vae, "", extras.get("vae")),
        "ema": args.ema or extras.get("ema", False),
        "lora": extras.get("lora", []) if args.lora is None else [from_flag(text) for text in args.lora],
    }
    if repeat is not None:
        check_given(kept["checkpoint"].get("lora", []), loading["lora"], repeat.path)
    model = Analogist.from_checkpoint(
        checkpoint, **loading, device=given(args.device, "device", None), dtype=given(args.dtype, "dtype", None),
        attention=given(args.attention, "attention", "auto"), progress=not args.quiet,
        compile=args.compile or kept.get("compiled") is not None,
        channels_last=True if args.channels_last else kept.get("computed", {}).get("channels_last"),
    )  # fmt: skip
    if repeat is not None and args.checkpoint is None and model.checkpoint.fingerprint != kept["checkpoint"]["fingerprint"]:
        raise ValueError(
            f"{model.checkpoint.path}: not the checkpoint of {args.config} (its content key differs); "
            "give --checkpoint to use it anyway"
        )
    if repeat is not None and args.lora is None and model.loras:
        check_repeat(kept["checkpoint"]["lora"], model.describe()["lora"], str(args.config))
    if args.task is not None:
        base = preset.config
    elif args.config is None:
        base = model.config
    else:
        base = repeat.config if repeat is not None else AnalogistConfig.load(args.config, model.config)
    seeds = kept.get("seeds", [42])
    # The forms that ran, site by site: a run that kept maps held some, and its repeat computes the same bits without keeping them.
    keep_forms = kept.get("attention") == "auto" and "attention_forms" in kept and args.attention is None and args.explore is None
    call = {
        "attention": kept["attention_forms"] if keep_forms else None,
        "negative_prompt": given(args.negative_prompt, "negative_prompt", None),
        "prompt_suffix": given(args.prompt_suffix, "prompt_suffix", None),
        "images": args.images if args.images is not None else len(seeds),
        "seed": args.seed if args.seed is not None else seeds[0],
        "config": settings_from_arguments(args, base),
        "batch": given(args.batch, "images_at_once", None),
    }
    for note in model.checkpoint.notes:
        warnings.warn(note, stacklevel=1)
    loaded = {"checkpoint_config": _absolute(loading["config"]), "vae": _absolute(loading["vae"]), "ema": loading["ema"]}
    loaded |= {"lora": [[_absolute(path), scale] for path, scale in loading["lora"]]} if loading["lora"] else {}
    where = model.source or _absolute(checkpoint)
    if one is None:
        return run_list(model, rows, out, call=call, page=page, inputs=loaded, where=where)
    paint(model, one, out, call=call, page=page, inputs=loaded, where=where)
    return 0


@dataclass(frozen=True, eq=False)
class Asked:
    """A grid to paint, with its prompts, who wrote them, and the record's entries on where the pictures lie."""

    grid: "PromptGrid"
    prompts: list[str]
    author: dict | None
    inputs: dict
    name: str = ""


def analogy_from(args: argparse.Namespace, repeat: "Repeat | None") -> Asked:
    """The one grid that the arguments describe, or that of the run to repeat."""
    inputs = {key: _absolute(getattr(args, key)) for key in ("a", "a_prime", "b", "grid") if getattr(args, key) is not None}
    if args.example is not None:
        from analogist import examples

        example = examples.load(args.example)
        grid, inputs = example.grid(args.size), inputs | {"example": args.example}
    elif inputs or repeat is None:
        grid = grid_from_arguments(args)
    else:
        grid = repeat.grid() if args.size is None else repeat.grid().with_size(args.size)
    if args.aligned not in (None, "none") and args.aligned != grid.aligned:
        grid = grid.with_aligned(args.aligned)
    found = prompts_from_arguments(args, grid)
    if found is not None:
        prompts, author = list(found.candidates), found.author
    elif args.example is not None:
        prompts, author = [example.prompt], {"prompter": "example"}
    elif repeat is not None:
        prompts, author = repeat.prompts(), repeat.record.get("prompt_author")
    else:
        prompts, author = [""], {"prompter": "none"}
    return Asked(grid, prompts, author, inputs)


def read_rows(args: argparse.Namespace) -> list[Asked]:
    """The grids of --list with their prompts: the column's, or those of a prompter for all."""
    from analogist.experiments.evaluate.data import read_csv
    from analogist.prompting import ask_all

    rows = read_csv(args.list, fit=args.fit, aligned="a-b" if args.aligned == "a-b" else "a-a_prime", border=not args.borderless)
    if args.size is not None:
        rows = [dataclasses.replace(row, grid=row.grid.with_size(args.size)) for row in rows]
    prompter = prompter_from_arguments(args)
    written = {} if prompter is None else ask_all({row.name: row.grid for row in rows}, prompter, progress=not args.quiet)
    asked = []
    for row in rows:
        if row.name in written:
            prompts, author = list(written[row.name].candidates), written[row.name].author
        else:
            prompts, author = [row.prompt], {"prompter": "list" if row.prompt else "none"}
        asked.append(Asked(row.grid, prompts, author, {"list": _absolute(args.list), "row": row.name}, row.file_name))
    return asked


def paint(model: "Analogist", one: Asked, out: Path, *, call: dict, page: int | None, inputs: dict, where: str | None) -> None:
    """Runs one grid with each of its prompts and writes the folder, the record last; prints what it wrote.

    call: arguments of the model's call. page: bytes of the explorer's page, None: none. inputs, where: for the record.
    """
    from analogist.disk.writing import shown
    from analogist.explore import PAGE, explore, for_explorer, save_maps
    from analogist.run.output import INPUT, prompt_names, remove_stale, save_result, write_input, write_record

    grid = one.grid.at_size(model.size)
    model.check(grid, **{key: call[key] for key in ("images", "seed", "config")})
    grid_path = write_input(grid, out)
    names = prompt_names(one.prompts) if len(one.prompts) > 1 else [None]
    results, records, written, started = [], [], [grid_path], time.perf_counter()
    for prompt, name in zip(one.prompts, names, strict=True):
        look = None if page is None else for_explorer(model, grid, prompt, max_bytes=page // len(one.prompts), **call)
        result = model(grid, prompt, **call, capture=look)
        written += save_result(result, out, name) + ([] if page is None else [save_maps(result, out, name)])
        records.append(result.record)
        if page is not None:
            results.append(result)  # their maps go onto the page; pixels and latents of the others are not kept
    if page is not None:
        written.append(explore(results, max_bytes=page).save(out / PAGE))
    stale = remove_stale(out, written)
    if stale:
        listed = ", ".join(stale[:6]) + (f" and {len(stale) - 6} more" if len(stale) > 6 else "")
        warnings.warn(f"{shown(out)} held another run; removed what this run did not write anew: {listed}", stacklevel=1)
    seconds, inputs = time.perf_counter() - started, one.inputs | inputs
    record = write_record(records, out, checkpoint=where, inputs=inputs, seconds=seconds, author=one.author, files=written)
    # Printed last: nothing that happens to the output (a closed pipe, a full disk) may cost the record.
    for path in [path for path in written if not path.name.startswith((INPUT, "grid_"))] + [record]:
        print(path)


def beside(folder: Path) -> Path:
    """Where a repeat without --out goes: DIR_repeat, DIR_repeat2, ..., so that nothing is overwritten."""
    number, place = 1, folder.with_name(f"{folder.name}_repeat")
    while place.exists():
        number += 1
        place = folder.with_name(f"{folder.name}_repeat{number}")
    return place


@overload
def _absolute(path: list) -> list: ...
@overload
def _absolute(path: str | Path | None) -> str | None: ...
def _absolute(path):
    """Paths as a later call from elsewhere finds them."""
    if isinstance(path, list):
        return [_absolute(one) for one in path]
    return None if path is None else str(Path(path).resolve())
