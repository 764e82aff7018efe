"""Heads by number, where sites have different numbers of heads."""

import warnings
from collections.abc import Sequence

from analogist.attention.select.run_shape import resolve_indices
from analogist.models.placement import Site


class HeadsSkipped(UserWarning):
    """Some of the sites chosen have fewer heads than were asked for; there the missing ones are left out."""


def resolve_heads(heads: int | Sequence[int] | None, sites: Sequence[Site]) -> dict[str, tuple[int, ...]]:
    """The heads to take at each site, by its name; none where a site lacks all of them. heads None: all.

    Warns (HeadsSkipped) where a site lacks some, naming it. Raises ValueError for a head that none of the sites has.
    """
    most = max((site.heads for site in sites), default=0)
    if not most:
        return {}
    wanted = resolve_indices(heads, most, "heads")
    found = {site.name: tuple(head for head in wanted if head < site.heads) for site in sites}
    short = {site.name: site.heads for site in sites if heads is not None and len(found[site.name]) < len(wanted)}
    if short:
        shown = ", ".join(f"{name} ({count})" for name, count in list(short.items())[:6])
        more = f" and {len(short) - 6} more" if len(short) > 6 else ""
        warnings.warn(
            f"heads {list(wanted)}: left out what {len(short)} of {len(found)} sites do not have (with the number of their heads): "
            f"{shown}{more}",
            HeadsSkipped, stacklevel=3,
        )  # fmt: skip
    return found
