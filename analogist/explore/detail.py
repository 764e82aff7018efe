"""How much a page holds: a ladder of details, from everything down to very little. The first one that fits is used.

The same ladder plans the capture (before anything runs) and the page (from measured sizes).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .coarse import pool_factor


@dataclass(frozen=True, kw_only=True)
class Detail:
    """What is kept; None: all.

    steps: how many executed steps, spread evenly. branches: 2, or 1 for the text branch alone. heads: sites with at most this
    many tokens keep every head, larger ones the mean over heads. queries, keys: at most this many tokens per map; larger maps
    are pooled in square blocks. logit_steps, logit_tokens: the same for scores and logits. images: the first ones of a run.
    """

    steps: int | None = None
    branches: int = 2
    heads: int | None = None
    queries: int | None = None
    keys: int | None = None
    logit_steps: int | None = None
    logit_tokens: int | None = None
    images: int | None = None

    def factors(self, hw: tuple[int, int], rows: int, view: str) -> tuple[int, int]:
        """Block sides (query, key) of a self-attention map under this detail."""
        if view in ("scores", "logits"):
            factor = pool_factor(hw, rows, self.logit_tokens)
            return factor, factor
        return pool_factor(hw, rows, self.queries), pool_factor(hw, rows, self.keys)

    def all_heads(self, hw: tuple[int, int]) -> bool:
        """Whether a site with a token map hw (before any pooling) keeps every head, not only their mean."""
        return self.heads is None or hw[0] * hw[1] <= self.heads

    def pick_steps(self, steps: Sequence[int], view: str) -> tuple[int, ...]:
        """Which of the given steps are kept."""
        return spread(steps, self.logit_steps if view in ("scores", "logits") else self.steps)


LADDER = (
    Detail(),
    Detail(steps=25, logit_steps=10, images=8),
    Detail(steps=25, queries=4096, keys=4096, logit_steps=5, logit_tokens=1024, images=4),
    Detail(steps=10, queries=4096, keys=4096, logit_steps=5, logit_tokens=1024, images=4),
    Detail(steps=10, heads=1024, queries=4096, keys=4096, logit_steps=3, logit_tokens=256, images=4),
    Detail(steps=10, heads=1024, queries=1024, keys=1024, logit_steps=3, logit_tokens=256, images=4),
    Detail(steps=10, heads=256, queries=1024, keys=1024, logit_steps=3, logit_tokens=256, images=2),
    Detail(steps=10, branches=1, heads=256, queries=1024, keys=1024, logit_steps=3, logit_tokens=256, images=2),
    Detail(steps=5, branches=1, heads=256, queries=1024, keys=1024, logit_steps=1, logit_tokens=256, images=2),
    Detail(steps=3, branches=1, heads=256, queries=1024, keys=1024, logit_steps=1, logit_tokens=256, images=2),
    Detail(steps=5, branches=1, heads=256, queries=256, keys=1024, logit_steps=1, logit_tokens=256, images=2),
    Detail(steps=3, branches=1, heads=256, queries=256, keys=1024, logit_steps=1, logit_tokens=256, images=2),
    Detail(steps=5, branches=1, heads=256, queries=256, keys=256, logit_steps=1, logit_tokens=256, images=2),
    Detail(steps=3, branches=1, heads=64, queries=256, keys=256, logit_steps=1, logit_tokens=256, images=1),
    Detail(steps=1, branches=1, heads=64, queries=256, keys=256, logit_steps=1, logit_tokens=64, images=1),
    Detail(steps=1, branches=1, heads=0, queries=256, keys=256, logit_steps=1, logit_tokens=64, images=1),
    Detail(steps=1, branches=1, heads=0, queries=64, keys=256, logit_steps=1, logit_tokens=64, images=1),
    Detail(steps=1, branches=1, heads=0, queries=64, keys=64, logit_steps=1, logit_tokens=64, images=1),
)  # fmt: skip


def spread(values: Sequence[int], count: int | None) -> tuple[int, ...]:
    """At most `count` of the values, evenly spread, always with the first and the last; for a count of 1, the middle one."""
    values = tuple(values)
    if count is None or len(values) <= count:
        return values
    if count == 1:
        return (values[len(values) // 2],)
    return tuple(values[round(i * (len(values) - 1) / (count - 1))] for i in range(count))


def first_fitting(cost: Callable[[Detail], float], budget: float, start: int = 0) -> int:
    """Index on the ladder of the first detail, from `start` on, whose cost is within the budget; the last one if none is."""
    return next((i for i in range(start, len(LADDER)) if cost(LADDER[i]) <= budget), len(LADDER) - 1)
