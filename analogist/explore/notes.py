"""The page's notes about itself: what it holds, what was left out, and how exact its values are."""

from collections.abc import Sequence

from .detail import Detail
from .held import Held
from .pack import block_keys, kept
from .quantise import STATED
from .source import Source

NAMES = {
    "probs": "probabilities", "scores": "logits before SAC", "logits": "logits after SAC", "before": "probabilities before CAM",
}  # fmt: skip


def notes(sources: list[Source], detail: Detail) -> dict[str, list[str]]:
    """{"holds": [...], "left_out": [...], "exact": [...]}, one sentence each."""
    several = len(sources) > 1
    holds, left_out = [], []
    for source in sources:
        mine = [one for other, one in kept(sources, detail) if other is source]
        head = f"{source.label}: " if several else ""
        if not mine:
            left_out.append(f"{head}the whole image (only the first {detail.images} images fit)")
            continue
        holds += [head + line for line in _holds(source, mine, detail)]
        left_out += [head + line for line in _left_out(source, mine, detail)]
    if not left_out:
        left_out.append("nothing; everything that ran at these points is here")
    return {"holds": holds, "left_out": left_out, "exact": list(STATED)}


def _holds(source: Source, mine: list[Held], detail: Detail) -> list[str]:
    lines = []
    for view, name in NAMES.items():
        for kind in ("self", "cross"):
            found = [one for one in mine if one.view == view and one.site.kind == kind]
            if found:
                steps = sorted({step for one in found for step, _ in block_keys(one, source, detail)})
                text = "one map over all captured steps" if steps == [-1] else f"steps {listed(steps)} of {len(source.times)} executed"
                lines.append(f"{kind}-attention, {name}: layers {listed([one.site.layer for one in found])}; {text}")
    return lines


def _left_out(source: Source, mine: list[Held], detail: Detail) -> list[str]:
    lines = []
    shown = {one.site.name for one in mine if one.view == "probs"}
    missing = [site for site in source.sites if site not in shown]
    if missing:
        lines.append(f"{len(missing)} of {len(source.sites)} sites have no probabilities: {', '.join(_short(missing))}")
    steps = {step for one in mine if one.view == "probs" for step, _ in block_keys(one, source, detail)}
    if steps != {-1} and len(steps) < len(source.times):
        lines.append(f"{len(source.times) - len(steps)} of {len(source.times)} executed steps")
    branches = {branch for one in mine for _, branch in block_keys(one, source, detail)}
    if source.config.sampling.guidance != 1 and len(branches) < 2:
        lines.append(f"the {'negative' if branches == {'text'} else 'text'} branch")
    for kind in ("self", "cross"):
        found = [one for one in mine if one.view == "probs" and one.site.kind == kind and one.site.heads > 1]
        means = [one.site.layer for one in found if not one.keeps_heads(detail)]
        if means:
            lines.append(f"single heads of {kind}-attention in layers {listed(means)}: only their mean is here")
        lines += _pooled(kind, [one for one in mine if one.site.kind == kind], detail)
    return lines + source.not_shown


def _pooled(kind: str, found: list[Held], detail: Detail) -> list[str]:
    """Maps whose tokens were pooled, and in blocks of what size."""
    groups: dict[tuple[str, int, int], list[int]] = {}
    for one in found:
        further = one.further(detail)
        query, key = one.factors[0] * further[0], one.factors[1] * further[1]
        if max(query, key) > 1 and (kind == "self" or query > 1):
            groups.setdefault((NAMES[one.view], query, key), []).append(one.site.layer)
    lines = []
    for (name, query, key), layers in groups.items():
        blocks = f"blocks of {query} x {query} queries averaged" if query > 1 else ""
        sums = f"{key} x {key} keys {'summed' if 'probabilities' in name else 'averaged'}" if key > 1 and kind == "self" else ""
        lines.append(f"single tokens of {kind}-attention ({name}) in layers {listed(layers)}: {' and '.join(filter(None, (blocks, sums)))}")
    return lines


def listed(numbers: Sequence[int]) -> str:
    """Numbers in ascending order as text, with runs of three or more and even spacing shortened: 0, 3 to 10, 13."""
    numbers = sorted(set(numbers))
    parts: list[str] = []
    i = 0
    while i < len(numbers):
        j = i
        while j + 1 < len(numbers) and numbers[j + 1] == numbers[j] + 1:
            j += 1
        parts += [f"{numbers[i]} to {numbers[j]}"] if j - i >= 2 else [str(n) for n in numbers[i : j + 1]]
        i = j + 1
    return ", ".join(parts)


def _short(names: list[str]) -> list[str]:
    return names if len(names) <= 8 else [*names[:8], "..."]
