"""`analogist tasks`: the published settings that `run --task` takes."""

import argparse

EXAMPLES = """examples:
  analogist tasks
  analogist run --task deblur --a a.png --a-prime ap.png --b b.png --checkpoint sd15-inpainting --out out
"""


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> argparse.ArgumentParser:
    """Adds the command `tasks`."""
    parser = subparsers.add_parser(
        "tasks",
        help="the published settings by task, as run --task takes them",
        description="Lists the published settings of each task and what the task is. All use 50 steps, SAC scale 1.3 and seed 42.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Prints a table."""
    from analogist.run.tasks import tasks

    rows = [("task", "strength", "guidance", "layers", "size", "aligned", "for")]
    for task in tasks().values():
        sampling, (first, last) = task.config.sampling, task.layers
        size = "checkpoint's" if task.size is None else str(task.size)
        rows.append((task.name, f"{sampling.strength:g}", f"{sampling.guidance:g}", f"{first}-{last}", size, task.aligned, task.what))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return 0
