"""Whether a difference is too small to matter: two one-sided tests against a smallest effect of interest."""

from analogist.experiments.decide.units import Sample


def margin_of(given: float | str, reference_mean: float) -> float | None:
    """A smallest effect as a number; None for a share of a reference whose mean is 0."""
    if isinstance(given, str):
        share = abs(reference_mean) * float(given.strip(" %")) / 100
        return share if share > 0 else None
    return float(given)


def two_one_sided(sample: Sample, margin: float) -> tuple[float, float] | None:
    """p of the mean being at or below -margin, and of its being at or above +margin; both small: no effect as large as margin.

    margin is taken as known. None for one unit. Source: Schuirmann 1987; Lakens 2017.
    """
    low, high = sample.p_above(-margin), sample.p_below(margin)
    return None if low is None or high is None else (low, high)
