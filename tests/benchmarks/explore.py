"""The speed of the explorer's page, measured in the page: python -m tests.benchmarks.explore

Time to the first picture, and from pointer to picture, in headless Chromium on this processor, for a page of the maximum size with maps
of a run at 512 px (random values, which compress worse than a model's).
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from analogist.explore import MAX_BYTES, explore
from tests.explore_browser import Browser, missing
from tests.explore_cases import SD15, fake_result, shape_of


def full_page(folder: Path, max_bytes: int = MAX_BYTES) -> Path:
    """A page of a run at 512 px with as many maps as its size allows."""
    page = explore(fake_result(SD15, shape_of((512, 512), steps=10), max_bytes=max_bytes), max_bytes=max_bytes)
    return page.save(folder / "look.html")


def moves(browser: Browser, count: int = 40, seed: int = 0) -> list[float]:
    """Milliseconds from a move of the pointer to the picture, one per move, as measured by the page."""
    rng = np.random.default_rng(seed)
    browser.js("explorer.latency.length = 0")
    for x, y in rng.integers(4, 508, (count, 2)):
        browser.point(float(x), float(y))
    return browser.js("return explorer.latency")


VIEWS = {
    "where a pixel looks, and which pixels look at it": {"kind": "self", "beside": "reverse"},
    "the same, mean of steps": {"kind": "self", "beside": "reverse", "step": "mean"},
    "with best matches": {"kind": "self", "beside": "reverse", "lines": "B'>A'", "step": 0},
    "words": {"kind": "cross", "beside": "before", "word": 1},
}


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--moves", type=int, default=40)
    args = parser.parse_args()
    if missing():
        raise SystemExit(missing())
    with tempfile.TemporaryDirectory() as name:
        started = time.perf_counter()
        path = full_page(Path(name))
        print(f"page        {path.stat().st_size / 1e6:.1f} MB, made with its random maps in {time.perf_counter() - started:.1f} s")
        browser = Browser()
        try:
            firsts = []
            for _ in range(3):
                browser.open(path)
                firsts.append(browser.js("return explorer.first()"))
            print(f"first view  {statistics.median(firsts):.0f} ms (3 times: {', '.join(f'{one:.0f}' for one in firsts)})")
            for what, view in VIEWS.items():
                browser.open(path)
                browser.go(layer="up.3.attn.2", **view)
                moves(browser, 5)
                found = sorted(moves(browser, args.moves))
                most = found[int(0.95 * len(found))]
                print(f"{what:42} median {statistics.median(found):5.1f} ms, 95 % within {most:5.1f} ms, {len(found)} moves")
        finally:
            browser.close()


if __name__ == "__main__":
    main()
