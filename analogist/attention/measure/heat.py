"""Word heat maps: how much attention every place of the picture pays to a word, at picture size.

Source of the idea: Tang et al. 2022 (DAAM). Split words, repeated words, the start and end tokens and the negative prompt are
explicit; with CAM on, the maps of A, A' and B are zero, since CAM cuts these places off from the text.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from analogist.attention.capture.maps import AttentionMap
from analogist.models.numbers import plain


@dataclass(frozen=True, eq=False)
class WordHeat:
    """values: [height width], the share of attention (0..1) that each pixel's token pays to the word, mean over maps.

    columns: text columns of the word. maps: how many captured maps were averaged.
    """

    word: str | int
    branch: str
    values: Tensor
    columns: tuple[int, ...]
    maps: int

    def __repr__(self) -> str:
        height, width = self.values.shape
        where = f"{self.word!r} in the {self.branch} prompt, columns {self.columns}"
        return f"WordHeat({where}: {height} x {width}, mean {self.values.mean():.4f})"


def word_heat(
    maps: Mapping[str, AttentionMap], word: str | int, *, branch: str = "text", image: int = 0, occurrence: int | None = None,
    steps: int | Sequence[int] | None = None, heads: int | Sequence[int] | None = None,
) -> WordHeat:  # fmt: skip
    """The heat map of a word over all cross-attention maps captured; mean over sites, steps and heads, each site scaled up.

    maps: of `result.maps`, whole queries at the point probs. word: of the prompt, several words in a row, "<start>", "<end>",
    "<padding>" or a text column; the tokens of a split word are summed, and all its places in the prompt too, unless
    occurrence (0 first) chooses one. branch: "text" or "negative". Raises ValueError where no map or no word is there.
    """
    found = [m for m in maps.values() if m.site.kind == "cross" and m.point == "probs" and m.axes[-2:] == ("query", "key")]
    if not found:
        raise ValueError("word_heat: none of these maps holds cross-attention probabilities; capture '*.cross:probs'")
    word = plain(word)
    columns = (word,) if isinstance(word, int) else found[0].columns_of(word, branch)
    if occurrence is not None:
        columns = _one_place(found[0], word, branch, columns, occurrence)
    total = torch.zeros(found[0].size, dtype=torch.float32, device="cpu")
    for m in found:
        part = _chosen(m, branch, image, steps, heads)
        rest = [axis for axis in part.axes if axis not in ("query", "key")]
        part = part.mean(*rest) if rest else part
        part = part.sel(key=list(columns))
        heat = torch.stack([part.sel(key=column).grid("query").float() for column in columns]).sum(0)
        total += F.interpolate(heat[None, None], size=m.size, mode="bilinear", align_corners=False)[0, 0]
    return WordHeat(word, branch, total / len(found), tuple(columns), len(found))


def word_heats(maps: Mapping[str, AttentionMap], *, branch: str = "text", image: int = 0) -> list[WordHeat]:
    """A heat map for every token of the prompt from <start> to <end>, in order; their sum is 1 minus the padding's share."""
    found = [m for m in maps.values() if m.site.kind == "cross" and branch in m.tokens]
    if not found:
        raise ValueError(f"word_heats: no cross-attention map knows the {branch} prompt; capture '*.cross:probs'")
    tokens = found[0].tokens[branch]
    heats = [word_heat(maps, column, branch=branch, image=image) for column in range(len(tokens))]
    return [WordHeat(token, branch, heat.values, heat.columns, heat.maps) for token, heat in zip(tokens, heats, strict=True)]


def _chosen(
    m: AttentionMap, branch: str, image: int, steps: int | Sequence[int] | None, heads: int | Sequence[int] | None
) -> AttentionMap:
    """The part of a map that is asked for; an axis that was dropped before must hold just that."""
    choices = {"branch": branch, "image": image, "step": steps, "head": heads}
    for axis, value in choices.items():
        if value is None:
            continue
        if axis in m.axes:
            m = m.sel(**{axis: value})
        elif m.coords.get(axis) != ((value,) if isinstance(value, int | str) else tuple(value)):
            raise ValueError(f"word_heat: {m.name} holds {axis} {m.coords.get(axis)} together, not {value!r} alone")
    return m


def _one_place(m: AttentionMap, word: str | int, branch: str, columns: Sequence[int], occurrence: int) -> tuple[int, ...]:
    prompt = m.prompts.get(branch, "")
    count = len(re.findall(rf"(?<!\w){re.escape(str(word))}(?!\w)", prompt, re.IGNORECASE)) or 1
    if not 0 <= occurrence < count:
        raise ValueError(f"occurrence {occurrence}: {word!r} stands {count} time(s) in the {branch} prompt, numbered from 0")
    if len(columns) % count:
        raise ValueError(f"occurrence: the {len(columns)} tokens of {word!r} do not split evenly into its {count} places (one was cut off)")
    each = len(columns) // count
    return tuple(columns[occurrence * each : (occurrence + 1) * each])
