"""Captured maps as xarray's labelled arrays, for those who select and average by name there. Needs the extra `xarray`."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from analogist.attention.capture.maps import AttentionMap

if TYPE_CHECKING:
    import xarray

NEEDED = "to_xarray needs xarray, which is not installed: pip install 'analogist[xarray]'"


def data_array(m: AttentionMap) -> "xarray.DataArray":
    """A map with its axes as dimensions.

    Coordinates: executed steps (and their training time t), branches, images, heads, token numbers of queries and keys of the picture,
    text columns (`text_column` [branch key] where branches hold different ones), names of regions. Of an axis that `sel` dropped the one
    entry is a coordinate without a dimension. Attributes: site, point, layer, hw, rows, reduced. Top-k maps have the
    kept keys as a coordinate `token` of the same shape.
    Raises ImportError where xarray is not installed.
    """
    try:
        import xarray
    except ImportError as error:
        raise ImportError(NEEDED) from error
    coords: dict[str, object] = {}
    for name, entries in m.coords.items():
        if name in m.axes:
            coords[name] = list(entries)
        elif len(entries) == 1:
            coords[name] = entries[0]
    if "step" in m.axes:
        coords["t"] = ("step", [m.times[step] for step in m.coords["step"]])
    for name in ("query", "key"):
        if name not in m.axes:
            continue
        if name == "key" and m.columns is not None:
            held = [m.columns[branch] for branch in m.coords["branch"]]
            if len(set(held)) == 1:
                coords[name] = list(held[0])
            else:  # one label for several columns would be wrong in all branches but one
                coords["text_column"] = (("branch", "key"), [list(columns) for columns in held])
        else:
            tokens = getattr(m, name)
            coords[name] = list(range(m.tensor.shape[m.axis(name)])) if tokens is None else tokens.tolist()
    for name in set(m.axes) & {"channel", "row", "column", "rank"}:
        coords[name] = list(range(m.tensor.shape[m.axis(name)]))
    if m.index is not None:
        coords["token"] = (m.axes, m.index.numpy())
    about = {"site": m.site.name, "point": m.point, "layer": m.site.layer, "hw": m.hw, "rows": m.rows, "reduced": m.reduced}
    return xarray.DataArray(m.numpy(), dims=m.axes, coords=coords, name=m.name, attrs=about)


def data_set(maps: Mapping[str, AttentionMap]) -> "xarray.Dataset":
    """All maps as variables of one data set.

    An axis that is the same in all maps that have it keeps its name. Where maps differ in it, as the finest and the coarsest site do in
    their queries, it is called after its length, "query_4096" and "query_256", so that nothing is filled up with nan; two that
    differ at the same length get letters too. Raises ImportError where xarray is not installed.
    """
    try:
        import xarray
    except ImportError as error:
        raise ImportError(NEEDED) from error
    arrays = {name: data_array(m) for name, m in maps.items()}
    kinds: dict[str, list[tuple]] = {}  # axis -> the different entries that it has
    for array in arrays.values():
        for axis in array.dims:
            entries = _entries(array, str(axis))
            if entries not in kinds.setdefault(str(axis), []):
                kinds[str(axis)].append(entries)
    names = {(axis, entries): _name(axis, entries, found) for axis, found in kinds.items() for entries in found}
    out = {}
    for name, array in arrays.items():
        renamed = {axis: names[str(axis), _entries(array, str(axis))] for axis in array.dims}
        single = [coord for coord in array.coords if coord not in array.dims and coord != "t"]  # would be one for all variables
        out[name] = array.drop_vars([*single, *(["t"] if renamed.get("step", "step") != "step" else [])]).rename(
            {axis: new for axis, new in renamed.items() if axis != new}
        )
    return xarray.Dataset(out)


def _entries(array: "xarray.DataArray", axis: str) -> tuple:
    """The labels of an axis; None for each where it has none, so that it does not take those of another map."""
    return tuple(array[axis].values.tolist()) if axis in array.coords else (None,) * array.sizes[axis]


def _name(axis: str, entries: tuple, found: list[tuple]) -> str:
    if len(found) == 1:
        return axis
    alike = [one for one in found if len(one) == len(entries)]
    return f"{axis}_{len(entries)}" + (chr(ord("a") + alike.index(entries)) if len(alike) > 1 else "")
