"""Contribution on the page: what the heads of a site write into a region from another, beside the share of attention between them."""

from analogist.attention.measure.contribution import Contribution
from analogist.models.cells import REGIONS

DIGITS = 3  # significant digits of a value


def written(contribution: Contribution, steps: int) -> dict:
    """A contribution as the page holds it: {"steps": [...], "sites": {name: {"heads": [...], branch: [step head 16]}}}, rounded.

    steps: executed steps of the run that it shall stand beside. Raises ValueError for what is not by region, or of another run.
    """
    if not isinstance(contribution, Contribution) or contribution.signed:
        raise ValueError("explore contribution: give what measures.contribution(run) returns, without direction=")
    if contribution.query != REGIONS or contribution.key != REGIONS:
        raise ValueError(
            f"explore contribution: measured from {', '.join(map(str, contribution.key))} to {', '.join(map(str, contribution.query))}; "
            f"the page's table needs {', '.join(REGIONS)} on both sides, which is what measures.contribution measures by itself"
        )
    if len(contribution.each) != 1 or max(contribution.steps) >= steps:
        raise ValueError("explore contribution: it was measured in other runs; give that of this run, measures.contribution(run)")
    sites: dict[str, dict] = {}
    for i, site in enumerate(contribution.sites):
        there = [j for j in range(len(contribution.heads)) if not contribution.values[i, :, :, j].isnan().any()]
        sites[site] = {"heads": [contribution.heads[j] for j in there]}
        for b, branch in enumerate(contribution.branches):
            values = contribution.values[i, :, b, there].flatten().tolist()  # step head query key
            sites[site][branch] = [float(f"{value:.{DIGITS}g}") for value in values]
    return {"steps": list(contribution.steps), "sites": sites}
