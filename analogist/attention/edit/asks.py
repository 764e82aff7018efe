"""What an edit may ask of the whole run, by attributes of the function: gradients, and several copies of every image.

Place in the flow: a run reads this before it starts; where no edit asks, it runs once and without gradients, as usual.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Asks:
    """What the edits of one call ask for.

    gradients: from the first edit whose result requires a gradient, the run's tensors keep their graph. pixels: gradients also pass
    through the decoder to the result's pixels, which needs memory for its graph too.
    copies: every image runs this many times in one batch, with the same draws; the image axis is then (copy image). Functions that ask
    for no number of copies act in each copy as they would alone (bind.py).
    """

    gradients: bool = False
    pixels: bool = False
    copies: int = 1


def asks_of(edit: object) -> Asks:
    """What the edits of a call ask for: `gradients = True` (or "pixels") or `copies = n` on any of the functions.

    Raises ValueError where two functions ask for different numbers of copies.
    """
    if not isinstance(edit, Mapping):
        return Asks()
    functions = [one for given in edit.values() for one in (given if isinstance(given, list | tuple) else [given])]
    copies = sorted({asked for function in functions if (asked := getattr(function, "copies", None)) is not None})
    if len(copies) > 1:
        raise ValueError(f"edits ask for {copies} copies of every image: give all edits of one call the same number of copies")
    gradients = [getattr(function, "gradients", False) for function in functions]
    return Asks(gradients=any(gradients), pixels="pixels" in gradients, copies=copies[0] if copies else 1)
