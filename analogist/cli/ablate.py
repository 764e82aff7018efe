"""`analogist ablate`: a study of where, when and how strongly SAC and CAM act, resumable and parallel."""

import argparse
import contextlib
import re
import sys
from pathlib import Path

EXAMPLES = """examples:
  analogist ablate sac-x-cam --out out/sac-x-cam                     a ready study on the embedded lab checkpoint
  analogist ablate sac-layers --checkpoint sd-v1-5-inpainting.safetensors --dry-run --out out/layers
  analogist ablate study.json --out out/mine                         your own study; run it again to resume it
  analogist ablate study.json --out out/mine --on ray --workers 2    runs as Ray tasks on this machine (extra: cluster)
  analogist ablate paper-claims --dry-run --pilot 8                  how many inputs its claims need, before anything is run
  analogist ablate paper-claims --out out/claims --count 130         1,300 analogies in place of 100 decide smaller effects
  analogist ablate paper-claims --out out/claims --until decided     stops when every claim is decided, at most at its end
  analogist ablate study.json --out out/mine --metrics mse,my_metrics:warmth       def warmth(b_prime, truth, example): ...
  analogist ablate study.json --out out/shard-$i --shard $i/8        one of eight job-array tasks; then: analogist merge

study.json: {"name": "scales", "factors": {"sac.scale": [1.0, 1.3, 1.8], "sac.layers": ["base", "encoder", "decoder"]},
             "inputs": [{"a": "a.png", "a_prime": "ap.png", "b": "b.png", "b_prime": "truth.png", "prompt": "a red boat"}],
             "seeds": [42, 43]}
Your own functions by name: "metrics": ["mse", "my_metrics:warmth"], and as a factor "edit": {"none": null, "mine": {"up.*.self:probs":
"my_edits:blur"}}; the modules are looked for beside the study file. "smallest_effect": {"mse": 0.002} (or "5 %" of the reference's mean,
the default) is the least difference that matters: claims are tested against it.
Layer ranges include both ends here (3-10). Other words for layers: none, all, each, each-left-out, parts, resolutions, ranges 4,
encoder, middle, decoder, 1/4, 16x16, without 5, up.*. Written into DIR: table.csv, pictures/, sheet.png, plots/, report.md, and
study.html, a page to read the study in."""


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> argparse.ArgumentParser:
    """Adds the command `ablate`."""
    parser = subparsers.add_parser(
        "ablate", help="vary where and how SAC and CAM act, and measure what changes",
        description="Runs a study: every combination of levels on every input and seed. Each is a job, and no job is done twice.",
        epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("study", metavar="STUDY", help="a study file or the name of a ready study ('list' prints the names)")
    parser.add_argument(
        "--out", metavar="DIR", help="folder of the study; made if it is missing, resumed if it exists"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="do one run, then print how many runs, how much time and how much memory to expect"
    )
    parser.add_argument("--pilot", type=int, metavar="N", help="with --dry-run: run N inputs to say how many are needed")
    parser.add_argument(
        "--until", choices=["decided"], help="look at the claims after each quarter of the inputs, and stop when all are decided"
    )
    add_study_arguments(parser)
    add_model_arguments(parser)
    add_pool_arguments(parser)
    parser.set_defaults(run=run)
    return parser


def add_study_arguments(parser: argparse.ArgumentParser, more: str = "") -> None:
    """Adds the settings that replace a study's own, which running and merging share. more: for their title."""
    study = parser.add_argument_group(f"settings that replace the study's own{more}")
    study.add_argument("--seeds", metavar="S", help="such as 42,43 or 42-49 (both ends included)")
    study.add_argument(
        "--count", type=int, metavar="N",
        help="analogies per kind of change or family, where a study draws its inputs (the ready ones do on lab checkpoints)",
    )  # fmt: skip
    study.add_argument("--size", metavar="N|HxW", help="size of the grid in pixels (default: the checkpoint's own)")
    study.add_argument("--steps", type=int, metavar="N", help="steps of the whole schedule, in the base settings")
    study.add_argument("--batch", type=int, metavar="N", help="images in one UNet call (default 8)")
    study.add_argument("--group", type=int, metavar="N", help="runs computed and written together (default 16)")
    study.add_argument(
        "--metrics", metavar="NAMES", help="names joined by commas ('list' as STUDY prints them too); module:function for your own"
    )


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments for checkpoint, device and feature networks, which all experiments share."""
    model = parser.add_argument_group("model")
    model.add_argument(
        "--checkpoint", metavar="PATH", help=".safetensors file or diffusers folder (default: the embedded lab checkpoint)"
    )
    model.add_argument("--checkpoint-config", metavar="PATH", help="folder or JSON file with settings beyond the tensor shapes")
    model.add_argument("--vae", metavar="PATH", help="file or folder, for checkpoints without a VAE")
    model.add_argument("--device", help="cpu, cuda, cuda:1 or mps (default: cuda, else mps, else cpu)")
    model.add_argument("--dtype", help="float32, bfloat16 or float16 (default: float16 on cuda, else float32)")
    model.add_argument(
        "--clip", metavar="PATH|ID", help="CLIP image encoder for clip_* metrics: a folder or hub id (published: ViT-B/16)"
    )
    model.add_argument("--dino", metavar="PATH|ID", help="DINO image encoder for dino_distance: a folder or hub id")


def add_pool_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments for where the jobs run."""
    where = parser.add_argument_group("where the jobs run")
    where.add_argument("--on", metavar="WHERE", help="here (default), ray, or ray:ADDRESS for a cluster")
    where.add_argument("--workers", type=int, metavar="N", help="Ray: number of workers (default: one per GPU, else one)")
    where.add_argument("--threads", type=int, metavar="N", help="CPU threads per worker (equal bits need equal threads)")
    where.add_argument("--shard", metavar="I/N", help="run only every N-th group, starting with group I (0 to N - 1), for job arrays")
    where.add_argument("--quiet", action="store_true", help="no progress bars")


def seeds_from(text: str) -> list[int]:
    """Seeds from a text such as 42,43 or 42-49, both ends included."""
    seeds: list[int] = []
    for part in text.split(","):
        if not re.fullmatch(r"\s*\d+(-\d+)?\s*", part):
            raise ValueError(f"--seeds {text}: give numbers such as 42,43 or 42-49")
        first, _, last = part.strip().partition("-")
        if int(last or first) - int(first) > 100_000:
            raise ValueError(f"--seeds {text}: at most 100000 seeds in one range are allowed")
        seeds += range(int(first), int(last or first) + 1)
    return seeds


def shard_from(text: str | None) -> tuple[int, int] | None:
    """(I, N) from the text I/N; None: no sharding."""
    if text is None:
        return None
    if not re.fullmatch(r"\d+/\d+", text):
        raise ValueError(f"--shard {text}: give I/N, such as 0/8 to 7/8")
    i, n = (int(part) for part in text.split("/"))
    if not 0 <= i < n:
        raise ValueError(f"--shard {text}: allowed are 0/{n} to {n - 1}/{n}")
    return i, n


def size_from(text: str | None) -> int | tuple[int, int] | None:
    """Size in pixels from N or HxW; None: the checkpoint's own."""
    if text is None:
        return None
    if not re.fullmatch(r"\d+(x\d+)?", text):
        raise ValueError(f"--size {text}: give N or HxW in pixels")
    parts = [int(part) for part in text.split("x")]
    return parts[0] if len(parts) == 1 else (parts[0], parts[1])


def load_model(args: argparse.Namespace):
    """Loads the model that the arguments name; --threads is applied first."""
    import torch

    from analogist.pipeline import Analogist

    if args.threads is not None:
        if args.threads < 1:
            raise ValueError(f"--threads {args.threads}: give 1 or more")
        torch.set_num_threads(args.threads)
    return Analogist.from_checkpoint(
        args.checkpoint, config=args.checkpoint_config, vae=args.vae, device=args.device, dtype=args.dtype
    )  # fmt: skip


def load_networks(args: argparse.Namespace) -> dict:
    """Loads the feature networks that the arguments name."""
    from analogist.experiments.score.networks import load_network

    return {kind: load_network(kind, getattr(args, kind)) for kind in ("clip", "dino") if getattr(args, kind) is not None}


def pool_from(args: argparse.Namespace):
    """Where the jobs run; None: in this process."""
    on = args.on or "here"
    if on == "here":
        if args.workers is not None:
            raise ValueError("--workers needs --on ray; without it everything runs in this process")
        return None
    if on != "ray" and not on.startswith("ray:"):
        raise ValueError(f"--on {on}: allowed are here, ray, ray:ADDRESS")
    from analogist.experiments.execute.cluster import Loading, RayPool

    loading = Loading(
        checkpoint=args.checkpoint, config=args.checkpoint_config, vae=args.vae, device=args.device, dtype=args.dtype,
        clip=args.clip, dino=args.dino,
    )  # fmt: skip
    address = on.partition(":")[2] or None
    return RayPool(loading, workers=args.workers, threads=args.threads, address=address, progress=not args.quiet)


def changes_from(args: argparse.Namespace) -> dict:
    """The study's fields that flags replace."""
    from analogist.experiments.design.own import own_metric
    from analogist.experiments.score.metrics import check_metrics

    changes: dict = {name: getattr(args, name) for name in ("batch", "group") if getattr(args, name) is not None}
    if args.seeds is not None:
        changes["seeds"] = tuple(seeds_from(args.seeds))
    if args.size is not None:
        changes["size"] = size_from(args.size)
    if args.metrics is not None:
        changes["metrics"] = tuple(own_metric(name.strip()) for name in args.metrics.split(","))
        check_metrics([name for name in changes["metrics"] if isinstance(name, str)] or ["mse"])
    return changes


def changes_to(study, args: argparse.Namespace, model) -> dict:
    """The fields that flags replace and that depend on the study or the checkpoint: its base with --steps, its inputs with --count."""
    from analogist.disk.foreign import naming
    from analogist.experiments.design import ready_studies as ready
    from analogist.experiments.design.inputs import counted
    from analogist.experiments.design.levels import StudyError

    changes = {} if args.steps is None else {"base": (study.base or model.config).replace(steps=args.steps)}
    if args.count is not None:
        with naming(args.study, StudyError) if args.study not in ready.READY else contextlib.nullcontext():
            changes["inputs"] = counted(study.inputs, args.count)
    return changes


def run(args: argparse.Namespace) -> int:
    """Runs a study, or prints what it would take (--dry-run)."""
    from analogist.experiments.design import ready_studies as ready
    from analogist.experiments.score.metrics import METRICS

    if args.study == "list":
        for name, make in ready.READY.items():
            first_line, _, _ = (make.__doc__ or "").partition("\n")
            print(f"{name}: {first_line}")
        print("metrics:")
        for metric in METRICS.values():
            print(f"  {metric.name}: {metric.text}")
        return 0
    if args.study not in ready.READY and not Path(args.study).is_file():
        raise ValueError(f"{args.study}: no such study file or ready study; ready studies are {', '.join(ready.READY)}")
    if args.out is None and not args.dry_run:
        raise ValueError("missing --out DIR, the folder of the study")
    if args.pilot is not None and (not args.dry_run or args.pilot < 2):
        raise ValueError(f"--pilot {args.pilot}: 2 inputs or more, and with --dry-run")
    shard, changes, pool = shard_from(args.shard), changes_from(args), pool_from(args)

    from analogist.disk.foreign import naming
    from analogist.experiments.design.levels import StudyError
    from analogist.experiments.execute.ablation import ablate, check_until, load_study, prepare
    from analogist.experiments.execute.dry_run import expect
    from analogist.experiments.execute.worker import Worker
    from analogist.experiments.score.metrics import Measurer

    model = load_model(args)
    networks = load_networks(args)
    study = load_study(args.study, model)
    changes |= changes_to(study, args, model)
    with naming(args.study, StudyError) if args.study not in ready.READY else contextlib.nullcontext():
        plan = prepare(study, model, changes=changes, deal=args.until is not None)
    check_until(args.until, plan.study, shard)
    if args.dry_run:
        worker = Worker(model, Measurer(plan.study.all_metrics, **networks))
        for line in expect(plan, worker, out=args.out, shard=shard, pilot=args.pilot):
            print(line)
        return 0
    assert args.out is not None, "without a folder it is a dry run"
    outcome = ablate(
        plan.study, args.out, model=model, pool=pool, shard=shard, progress=not args.quiet, until=args.until, **networks
    )  # fmt: skip
    for note in outcome.notes:
        print(f"analogist ablate: note: {note}", file=sys.stderr)
    for name in ("table.csv", "sheet.png", "report.md", "study.html"):
        if (outcome.folder / name).exists():
            print(outcome.folder / name)
    return 0
