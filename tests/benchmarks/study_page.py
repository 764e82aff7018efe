"""The speed of the study's page, measured in the page: python -m tests.benchmarks.study_page

Time to the first view in headless Chromium on this processor, as it passes and as the page's main thread computes (which other work on
the machine does not change), for studies of several sizes with made-up pictures (noise, which compresses worse than a model's).
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from analogist.experiments.execute.ablation import Outcome
from tests.experiments_small import load_model, one_input
from tests.explore_browser import Browser, missing
from tests.test_study_page import made, some

FACTORS = {name: ["on", "off"] for name in ("sac", "text", "cam")} | {"sac.scale": [1.3, 0.5, 1.0, 1.8, 2.2], "guidance": [3.0, 5.0, 7.0]}
VARIANTS, SEEDS = 10, 5


def large_study(folder: Path, runs: int = 500, side: int = 64) -> Outcome:
    """A finished study of so many runs in steps of 50. side: of the grids in pixels; a B' cell has half of it."""
    inputs = tuple(one_input(f"x{i}", "a cat", shift=i, size=side) for i in range(runs // (VARIANTS * SEEDS)))
    given = some(factors=FACTORS, inputs=inputs, seeds=range(SEEDS), hypotheses=(), size=side)
    return made(load_model(), given, folder)


def first_views(browser: Browser, page: Path, times: int = 5, address: str = "") -> list[tuple[float, float]]:
    """Milliseconds from the start of loading to the first view, and milliseconds that the page's main thread computed until then."""
    browser.driver.execute_cdp_cmd("Performance.enable", {"timeDomain": "threadTicks"})
    found = []
    for _ in range(times):
        browser.driver.get("about:blank")
        before = _computed(browser)
        browser.driver.get(f"file://{page}{address}")
        browser.settle()
        found.append((browser.js("return study.first()"), _computed(browser) - before))
    return found


def _computed(browser: Browser) -> float:
    """Milliseconds that the main thread has computed."""
    metrics = browser.driver.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
    return 1000 * next(one["value"] for one in metrics if one["name"] == "TaskDuration")


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, nargs="+", default=[500, 2000])
    parser.add_argument("--side", type=int, default=512, help="of the grids in pixels")
    args = parser.parse_args()
    if missing():
        raise SystemExit(missing())
    browser = Browser()
    try:
        for runs in args.runs:
            with tempfile.TemporaryDirectory() as name:
                started = time.perf_counter()
                done = large_study(Path(name), runs, args.side)
                page = done.folder / "study.html"
                print(f"{runs} runs: {page.stat().st_size / 1e6:.1f} MB, the study made in {time.perf_counter() - started:.0f} s")
                print(f"  {next(line for line in done.report.splitlines() if line.startswith('A page'))}")
                for view in ("effects", "runs"):
                    found = first_views(browser, page, address=f"#view={view}")
                    drawn = browser.js("return document.querySelectorAll('*').length")
                    passed, computed = (statistics.median(times) for times in zip(*found, strict=True))
                    print(f"  first view ({view}) after {passed:.0f} ms, {computed:.0f} ms of them computing (5 times), {drawn} elements")
    finally:
        browser.close()


if __name__ == "__main__":
    main()
