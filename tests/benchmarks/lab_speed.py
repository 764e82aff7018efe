"""Duration of the first run: python -m tests.benchmarks.lab_speed [--threads 2]

Start-up (a fresh process: imports, weights) and sampling with the lab checkpoint's own settings, reported separately.
"""

import argparse
import json
import subprocess
import sys
import time

import torch

_START = """import time
t = time.monotonic()
from analogist import Analogist
Analogist.from_checkpoint(device="cpu")
print(time.monotonic() - t)"""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.lab_speed", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=3)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    started = subprocess.run([sys.executable, "-W", "ignore", "-c", _START], capture_output=True, text=True, check=True)

    from analogist import Analogist, PromptGrid, examples

    model = Analogist.from_checkpoint(device="cpu")
    example = examples.load(examples.names()[0])
    grid = PromptGrid(example.a, example.a_prime, example.b)
    model(grid, example.prompt, progress=False, config=model.config.replace(steps=2, strength=1.0))  # warm-up
    taken = []
    for _ in range(args.repeat):
        began = time.monotonic()
        model(grid, example.prompt, progress=False)
        taken.append(time.monotonic() - began)
    print(json.dumps({
        "threads": args.threads,
        "start_up_s": round(float(started.stdout), 2),
        "sampling_s": round(min(taken), 2),
        "steps": model.config.sampling.executed,
    }))  # fmt: skip
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
