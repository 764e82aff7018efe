"""Chooses the lab checkpoint's default settings by measurement, one group after the other, on separate grids.

    python -m tests.benchmarks.lab_settings --grids 92 --out out/settings.json

Every group's candidates differ in one thing from the best so far. The figure is the mean of the error of B' with the true
prompt and without one (its feature distance is also listed). Steps are only raised if that improves it by at least 2 %.
"""

import argparse
import json
from pathlib import Path

import torch

from analogist import CAM, SAC, Analogist, AnalogistConfig, Placement
from analogist.config import SamplingConfig
from analogist.lab.grids import evaluation_batch
from analogist.lab.measure import answers, cell, feature_distance, squared_error
from analogist.lab.split import EVALUATION_SEED, FAMILIES

SEED = EVALUATION_SEED + 3_000_000
FINEST, MIDDLE, ALL = [0, 1, 13, 14, 15], list(range(3, 11)), list(range(16))
PARTS = [0, 1], [11, 12], [13, 14, 15]  # layers of the encoder, of the decoder


def groups(base: AnalogistConfig) -> dict[str, list[dict]]:
    """Group -> changes to try."""
    sac = [{"sac": None}] + [
        {"sac": SAC(Placement.layers(layers), scale=scale)} for layers in (FINEST, MIDDLE, ALL) for scale in (1.0, 1.3)
    ]
    sac += [{"sac": SAC(Placement.layers(layers), scale=1.0)} for layers in PARTS]
    return {
        "guidance": [{"guidance": g} for g in (1.0, 1.5, 2.0, 3.0, 5.0)],
        "sac": sac,
        "cam": [{"cam": None}] + [{"cam": CAM(Placement.layers(layers))} for layers in (FINEST, MIDDLE, ALL)],
        "strength": [{"strength": s} for s in (0.8, 0.9, 0.98, 1.0)],
        "steps": [{"steps": n} for n in (6, 10, 15, 25)],
    }


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.lab_settings", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--grids", type=int, default=92)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", nargs="*", help="names of the groups to run")
    parser.add_argument("--start", type=Path, help="configuration to start from (JSON)")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    model = Analogist.from_checkpoint(args.checkpoint)
    batch = evaluation_batch([FAMILIES[i % len(FAMILIES)] for i in range(args.grids)], size=model.size, seed=SEED)
    truth = cell(batch.pixels, 3)
    config = AnalogistConfig(sampling=SamplingConfig(steps=10, strength=0.98, guidance=2.0), sac=None, cam=None)
    if args.start is not None:
        config = AnalogistConfig.load(args.start)
    log = []
    for group, candidates in groups(config).items():
        if args.only and group not in args.only:
            continue
        best: tuple[float, AnalogistConfig] | None = None
        for change in candidates:
            tried = config.replace(**change)
            entry = {"group": group, "config": tried.to_json()}
            for name, prompts in (("true", batch.captions), ("empty", [""] * args.grids)):
                found = cell(answers(model, batch.pixels, prompts, tried, seeds=range(args.grids)), 3)
                entry[name] = round(squared_error(found, truth).mean().item(), 5)
                entry[f"{name}_feature"] = round(feature_distance(found, truth).mean().item(), 5)
            figure = (entry["true"] + entry["empty"]) / 2
            log.append(entry)
            print(group, {k: (v.to_json() if hasattr(v, "to_json") else v) for k, v in change.items()},
                  {k: v for k, v in entry.items() if k not in ("group", "config")}, flush=True)
            if best is None or figure < best[0] * (0.98 if group == "steps" else 1.0):
                best = (figure, tried)
        config = best[1]
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps({"chosen": config.to_json(), "grids": args.grids, "tried": log}, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
