"""Is the lab checkpoint fit for its purpose? Measured on held-out grids, family by family.

    python -m tests.benchmarks.lab --out out/lab                 # 276 grids of 23 families, 72 with held-out pairs, all variants
    python -m tests.benchmarks.lab --grids 46 --out out/quick

Writes lab.json (all figures), lab.md (tables) and sheet.png (48 grids to look at: A, A', B and the answer above, the truth below).
The error is the mean squared error of B' without its border, pictures in [0, 1]; the feature distance is that of
`analogist.lab.measure.features`, a fixed filter bank. The floor is the VAE's own reconstruction of the true grid.
"""

import json
import time

import torch
from PIL import Image
from torch import Tensor

from analogist import CAM, SAC, Analogist, AnalogistConfig, Placement
from analogist.lab.grids import Batch, evaluation_batch
from analogist.lab.measure import answers, cell, feature_distance, interval, reconstruct, squared_error
from analogist.lab.split import EVALUATION_SEED, FAMILIES, HELD_OUT, TRAINED

from . import lab_arguments

SEED = EVALUATION_SEED + 1_000_000  # settings were chosen on other seeds (lab_settings.py)
EVERYWHERE = Placement.layers(0, 16)


def variants(config: AnalogistConfig) -> dict[str, tuple[str, AnalogistConfig]]:
    """name -> (which prompt, settings). The shipped settings come first; each other variant changes one thing."""
    sac = config.sac or SAC(EVERYWHERE, scale=1.0)
    cam = config.cam or CAM(EVERYWHERE)
    return {
        "true prompt": ("true", config),
        "empty prompt": ("empty", config),
        "wrong prompt": ("wrong", config),
        "SAC on": ("true", config.replace(sac=sac)),
        "SAC off": ("true", config.replace(sac=None)),
        "SAC on, empty prompt": ("empty", config.replace(sac=sac)),
        "SAC off, empty prompt": ("empty", config.replace(sac=None)),
        "CAM on": ("true", config.replace(cam=cam)),
        "CAM off": ("true", config.replace(cam=None)),
        "SAC on, published layers": ("true", config.replace(sac=SAC(Placement.layers(3, 11), scale=1.3))),
        "CAM on, published layers": ("true", config.replace(cam=CAM(Placement.layers(3, 11)))),
    }


def prompts_of(batch: Batch) -> dict[str, list[str]]:
    """True, empty and wrong prompts. A wrong one is the caption of another grid whose object and background differ."""
    wrong = []
    for i, own in enumerate(batch.captions):
        words = set(own.split()) - {"on"}
        others = batch.captions[i + 1 :] + batch.captions[:i]
        wrong.append(next(other for other in others if not words & set(other.split())))
    return {"true": batch.captions, "empty": [""] * len(batch.captions), "wrong": wrong}


def figures(pictures: Tensor, truth: Tensor) -> dict[str, Tensor]:
    """Both distances [grid]."""
    return {"mse": squared_error(pictures, truth), "feature": feature_distance(pictures, truth)}


def measure(
    model: Analogist, batch: Batch, chosen: dict[str, tuple[str, AnalogistConfig]], seeds: list[int]
) -> tuple[dict, dict[str, Tensor]]:
    """Figures [grid] of every variant and reference, and the variants' decoded grids."""
    truth, prompts = cell(batch.pixels, 3), prompts_of(batch)
    rows = {
        "copy of B": figures(cell(batch.pixels, 2), truth),
        "copy of A'": figures(cell(batch.pixels, 1), truth),
        "floor": figures(cell(reconstruct(model, batch.pixels), 3), truth),
    }
    grids: dict[str, Tensor] = {}
    done: dict[tuple[str, str], str] = {}
    for name, (which, config) in chosen.items():
        key = (which, json.dumps(config.to_json(), sort_keys=True))
        if key in done:  # the shipped settings have more than one name
            rows[name] = rows[done[key]]
            continue
        began = time.monotonic()
        grids[name] = answers(model, batch.pixels, prompts[which], config, seeds=seeds)
        rows[name] = figures(cell(grids[name], 3), truth)
        done[key] = name
        print(f"{name}: {rows[name]['mse'].mean():.4f} ({time.monotonic() - began:.0f} s)", flush=True)
    return rows, grids


def by_family(rows: dict, families: list[str], metric: str) -> dict[str, dict[str, float]]:
    """Means: family -> name -> figure."""
    result = {}
    for family in dict.fromkeys(families):
        here = torch.tensor([f == family for f in families])
        result[family] = {name: values[metric][here].mean().item() for name, values in rows.items()}
    return result


def summary(table: dict[str, dict[str, float]], name: str = "true prompt") -> dict[str, object]:
    """The figures of the model card: how many families are better than both copies, and how close the error is to the floor."""
    best = {family: min(row["copy of B"], row["copy of A'"]) for family, row in table.items()}
    fair = [family for family, row in table.items() if best[family] >= 2 * row["floor"]]
    closed = {family: (best[family] - table[family][name]) / (best[family] - table[family]["floor"]) for family in fair}
    return {
        "better_than_both_copies": {
            "trained": f"{sum(table[f][name] < best[f] for f in table if f in TRAINED)} of {sum(f in TRAINED for f in table)}",
            "held_out": f"{sum(table[f][name] < best[f] for f in table if f in HELD_OUT)} of {sum(f in HELD_OUT for f in table)}",
            "not": [f for f in table if table[f][name] >= best[f]],
        },
        "closed": closed,
        "closed_mean": sum(closed.values()) / max(1, len(closed)),
        "closed_mean_trained": sum(v for f, v in closed.items() if f in TRAINED) / max(1, sum(f in TRAINED for f in closed)),
        "too_near_the_floor": [family for family in table if family not in fair],
    }


COMPARED = (
    ("SAC on", "SAC off"),
    ("SAC on, empty prompt", "SAC off, empty prompt"),
    ("SAC on, published layers", "SAC off"),
    ("CAM on", "CAM off"),
    ("CAM on, published layers", "CAM off"),
    ("true prompt", "empty prompt"),
    ("wrong prompt", "empty prompt"),
)


def sheet(pixels: Tensor, answered: Tensor, columns: int = 12) -> Image.Image:
    """Pairs of pictures: above, the grid with its answer; below, the true B' at the same place."""
    size = pixels.shape[-1]
    half = size // 2
    shown = pixels.clone()
    shown[:, :, half:, half:] = answered[:, :, half:, half:].clamp(-1, 1)
    gap, rows = 4, -(-len(pixels) // columns)
    canvas = torch.zeros(3, rows * (size + half + 2 * gap), columns * (size + gap))
    for i in range(len(pixels)):
        top, left = (i // columns) * (size + half + 2 * gap), (i % columns) * (size + gap)
        canvas[:, top : top + size, left : left + size] = (shown[i] + 1) / 2
        canvas[:, top + size : top + size + half, left + half : left + size] = (pixels[i, :, half:, half:] + 1) / 2
    return Image.fromarray((canvas * 255).round().byte().permute(1, 2, 0).numpy())


def markdown(table: dict[str, dict[str, float]], overall: dict[str, float]) -> str:
    """A table, one row per family."""
    names = list(overall)
    lines = ["| family | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for family, row in {**table, "all": overall}.items():
        label = f"{family} (held out)" if family in HELD_OUT else family
        lines.append(f"| {label} | " + " | ".join(f"{row[name]:.4f}" for name in names) + " |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    parser = lab_arguments.parser("lab", __doc__)
    parser.add_argument("--grids", type=int, default=276, help="held-out grids, spread over all families (default: 276)")
    parser.add_argument("--seeds", type=int, default=1, help="sampling seeds per grid (default: 1)")
    parser.add_argument("--only", nargs="*", help="names of variants to run, instead of all")
    args = parser.parse_args(argv)
    model = lab_arguments.opened(args)
    names = [FAMILIES[i % len(FAMILIES)] for i in range(args.grids)]
    batch = evaluation_batch(names, size=model.size, seed=SEED)
    pairs = evaluation_batch([name for name in TRAINED for _ in range(4)], size=model.size, seed=SEED + 1, held_out_pairs=True)
    chosen = variants(model.config)
    if args.only:
        if unknown := sorted(set(args.only) - set(chosen)):
            parser.error(f"--only {' '.join(unknown)}: the variants are {'; '.join(chosen)}")
        chosen = {name: chosen[name] for name in args.only}
    repeated: list[dict] = []
    for k in range(args.seeds):
        rows, grids = measure(model, batch, chosen, [1000 * k + i for i in range(len(names))])
        repeated.append(rows)
        if k == 0:
            first = next(iter(grids))
            sheet(batch.pixels[:48], grids[first][:48]).save(args.out / "sheet.png")
    rows = {n: {m: torch.stack([r[n][m] for r in repeated]).mean(0) for m in ("mse", "feature")} for n in repeated[0]}
    pair_rows, _ = measure(model, pairs, dict(list(chosen.items())[:1]), list(range(len(pairs.captions))))
    result: dict[str, object] = {"checkpoint": model.describe(), "config": model.config.to_json(), "grids": len(names), "seeds": args.seeds}
    text = []
    for metric in ("mse", "feature"):
        table = by_family(rows, names, metric)
        overall = {name: values[metric].mean().item() for name, values in rows.items()}
        result[metric] = {
            "families": table,
            "all": overall,
            "held_out_pairs": {name: values[metric].mean().item() for name, values in pair_rows.items()},
            "differences": {
                f"{a} - {b}": interval(rows[a][metric] - rows[b][metric]) for a, b in COMPARED if a in rows and b in rows
            },
        }
        if "true prompt" in rows:
            result[metric]["summary"] = summary(table)
        text += [f"## {metric}", "", markdown(table, overall), ""]
    (args.out / "lab.json").write_text(json.dumps(result, indent=1))
    (args.out / "lab.md").write_text("\n".join(text))
    print(json.dumps({m: {k: v for k, v in result[m].items() if k != "families"} for m in ("mse", "feature")}, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
