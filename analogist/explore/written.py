"""Contribution on the page: what the heads of a site write into a region from another, beside the share of attention between them."""

from analogist.attention.measure.contribution import Contribution
from analogist.grid.layout import cell_names
from analogist.models.cells import REGIONS

DIGITS = 3  # significant digits of a value


def written(contribution: Contribution, steps: int, rows: int = 2) -> dict:
    """A contribution as the page holds it, rounded.

    Returns {"regions": [...], "steps": [...], "sites": {name: {"heads": [...], branch: [step head query_region key_region]}}}.
    steps, rows: executed steps, and rows of cells, of the run beside which it is shown. The regions are A, A', B and B', or every cell.
    Raises ValueError for a contribution along a direction, between other regions, or from another run.
    """
    if not isinstance(contribution, Contribution) or contribution.signed:
        raise ValueError("explore contribution: give what measures.contribution(run) returns, without direction=")
    if contribution.query != contribution.key or contribution.query not in (REGIONS, cell_names(rows - 1)):
        cells = "" if rows == 2 else f", or {', '.join(cell_names(rows - 1))}"
        raise ValueError(
            f"explore contribution: measured from {', '.join(map(str, contribution.key))} to {', '.join(map(str, contribution.query))}; "
            f"the page's table needs {', '.join(REGIONS)} on both sides, which is what measures.contribution measures by itself{cells}"
        )
    if len(contribution.each) != 1 or max(contribution.steps) >= steps:
        raise ValueError("explore contribution: it was measured in another run; give measures.contribution(run) of this one")
    sites: dict[str, dict] = {}
    for i, site in enumerate(contribution.sites):
        there = [j for j in range(len(contribution.heads)) if not contribution.values[i, :, :, j].isnan().any()]
        sites[site] = {"heads": [contribution.heads[j] for j in there]}
        for b, branch in enumerate(contribution.branches):
            values = contribution.values[i, :, b, there].flatten().tolist()  # step head query key
            sites[site][branch] = [float(f"{value:.{DIGITS}g}") for value in values]
    return {"regions": list(contribution.query), "steps": list(contribution.steps), "sites": sites}
