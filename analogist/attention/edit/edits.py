"""Ready edits of attention, to be passed as `edit={"up.1.*.self:logits": scale_block("B'", "A'", 2.0)}`.

Each takes steps=, branches=, images= and heads= (None: all). Your own edit is any function (tensor, at) -> tensor
of the same shape; `at.cells(tensor)` and `region_view(tensor, at, "B'", "A'")` are views that you can write into.
"""

from collections.abc import Sequence
from typing import Unpack

import torch
from torch import Tensor

from analogist.attention.edit.add import add
from analogist.attention.edit.bind import Edit, EditError, Edits
from analogist.attention.edit.freeu import freeu
from analogist.attention.edit.patch import patch
from analogist.attention.edit.ready_edit import ANYWHERE, Chosen, ReadyEdit, WithoutBranches, WithoutHeads, number
from analogist.attention.select.regions import region_view
from analogist.attention.select.run_shape import RunShape
from analogist.attention.select.word_columns import columns_of
from analogist.models.control import CAM, SAC, At
from analogist.models.placement import MAP_POINTS
from analogist.models.settings import Scaled

__all__ = [
    "Edit", "EditError", "Edits", "ablate_heads", "add", "average_heads", "blur_rows", "cam", "cut_block", "freeu", "patch",
    "region_view", "reweight_word", "sac", "sac_aligned", "sac_blended", "scale", "scale_block", "scale_blocks", "share_keys",
    "sharpen_rows", "swap_heads", "temperature", "zero_block",
]  # fmt: skip


def scale(by: float, **where: Unpack[Chosen]) -> ReadyEdit:
    """Multiplies the whole tensor at any point, including blocks and skips."""
    factor = number(by, "scale by")
    return ReadyEdit(f"scale({by})", ANYWHERE, lambda part, at: part * factor, **where)


def scale_block(query: str | None, key: str | None, by: float, **where: Unpack[Chosen]) -> ReadyEdit:
    """Multiplies the block of a map from a query region to a key region.

    query, key: "A", "A'", "B", "B'" ("A1" .. with several pairs); None: all (key must be None at cross-attention).
    At `probs` rows no longer sum to 1; at `logits` the softmax renormalises.
    """
    factor = number(by, "scale_block by")

    def change(part: Tensor, at: At) -> Tensor:
        region_view(part, at, query, key).mul_(factor)
        return part

    return ReadyEdit(f"scale_block({query!r}, {key!r}, {by})", MAP_POINTS, change, **where)


def zero_block(query: str | None, key: str | None = None, **where: Unpack[Chosen]) -> ReadyEdit:
    """Sets the block of probabilities from a query region to a key region to 0; rows are not renormalised (as CAM does)."""

    def change(part: Tensor, at: At) -> Tensor:
        region_view(part, at, query, key).zero_()
        return part

    return ReadyEdit(f"zero_block({query!r}, {key!r})", ("probs",), change, **where)


def cut_block(query: str | None, key: str, **where: Unpack[Chosen]) -> ReadyEdit:
    """Prevents a query region from attending to a key region: its logits become -inf, the rest of each row is renormalised."""

    def change(part: Tensor, at: At) -> Tensor:
        region_view(part, at, query, key).fill_(float("-inf"))
        return part

    return ReadyEdit(f"cut_block({query!r}, {key!r})", ("scores", "logits"), change, kind="self", **where)


def swap_heads(first: int, second: int, **where: Unpack[Chosen]) -> ReadyEdit:
    """Swaps two heads."""

    def change(part: Tensor, at: At) -> Tensor:
        order = list(range(part.shape[1]))
        if max(first, second) >= len(order) or min(first, second) < 0:
            raise ValueError(f"swap_heads({first}, {second}): {at.site} has heads 0..{len(order) - 1}")
        order[first], order[second] = second, first
        return part[:, order]

    return ReadyEdit(f"swap_heads({first}, {second})", ("q", "k", "v", *MAP_POINTS, "head_out"), change, **where)


def average_heads(**where: Unpack[Chosen]) -> ReadyEdit:
    """Replaces each head (of those in heads=) by their mean."""
    return ReadyEdit(
        "average_heads()",
        ("q", "k", "v", *MAP_POINTS, "head_out"),
        lambda part, at: part.mean(dim=1, keepdim=True).expand_as(part),
        **where,
    )


def ablate_heads(heads: int | Sequence[int], *, by: str = "zero", **where: Unpack[WithoutHeads]) -> ReadyEdit:
    """Silences heads at `head_out` (or `probs`, `v`). by: "zero", or "mean" over the tokens (which keeps a head's constant part).

    Zero at head_out is equivalent to zeroing the heads' columns of the output projection.
    """
    if by not in ("zero", "mean"):
        raise ValueError(f"ablate_heads by={by!r}: allowed are 'zero' and 'mean'")

    def change(part: Tensor, at: At) -> Tensor:
        return torch.zeros_like(part) if by == "zero" else part.mean(dim=2, keepdim=True).expand_as(part)

    return ReadyEdit(f"ablate_heads(by={by!r})", ("head_out", "probs", "v"), change, heads=heads, **where)


def temperature(value: float, **where: Unpack[Chosen]) -> ReadyEdit:
    """Divides scores or logits: above 1 rows become flatter, below 1 sharper."""
    factor = number(value, "temperature")
    if factor <= 0:
        raise ValueError(f"temperature {value!r}: must be greater than 0")
    return ReadyEdit(f"temperature({value})", ("scores", "logits"), lambda part, at: part / factor, **where)


def sharpen_rows(power: float, **where: Unpack[Chosen]) -> ReadyEdit:
    """Raises probabilities to a power and keeps row sums: above 1 sharper, below 1 flatter. Rows of zeros stay zero."""
    exponent = number(power, "sharpen_rows power", 0)

    def change(part: Tensor, at: At) -> Tensor:
        before = part.float()
        raised = torch.where(before > 0, before**exponent, torch.zeros_like(before))
        total = raised.sum(dim=-1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
        return (raised * (before.sum(dim=-1, keepdim=True) / total)).to(part.dtype)

    return ReadyEdit(f"sharpen_rows({power})", ("probs",), change, **where)


def blur_rows(sigma: float, **where: Unpack[Chosen]) -> ReadyEdit:
    """Blurs each query's attention over the keys' positions in the picture. sigma: of the Gaussian, in tokens. Row sums are kept."""
    width = number(sigma, "blur_rows sigma", 0)

    def change(part: Tensor, at: At) -> Tensor:
        if width == 0:
            return part
        rows, columns = (_gaussian(side, width).to(part.device) for side in at.hw)
        spread = part.float().unflatten(-1, at.hw)
        return torch.einsum("...yx,yv,xu->...vu", spread, rows, columns).flatten(-2).to(part.dtype)

    return ReadyEdit(f"blur_rows({sigma})", MAP_POINTS, change, kind="self", **where)


def _gaussian(side: int, sigma: float) -> Tensor:
    """[from to]: how each token's share is spread along one side; rows sum to 1, so nothing is lost at the borders."""
    places = torch.arange(side, dtype=torch.float32, device="cpu")
    weights = torch.exp(-((places[:, None] - places[None]) ** 2) / (2 * sigma**2))
    return weights / weights.sum(dim=1, keepdim=True)


def reweight_word(word: str | int, by: float, *, branches: str | Sequence[str] = "text", **where: Unpack[WithoutBranches]) -> ReadyEdit:
    """Multiplies the attention that every query pays to a word (all its tokens, all its occurrences in the prompt).

    word: a word of the prompt, "<start>", "<end>", "<padding>" or a text column. Not renormalised (Hertz et al. 2022, re-weighting).
    Raises ValueError before the run if the prompt does not contain the word.
    """
    factor = number(by, "reweight_word by")

    def prepare(run: RunShape, chosen: tuple[str, ...]):
        columns = {branch: list(columns_of(word, branch, run)) for branch in chosen}

        def change(part: Tensor, at: At, labels: list[str]) -> Tensor:
            for row, label in enumerate(labels):
                part[row, :, :, columns[label]] *= factor
            return part

        return change

    return ReadyEdit(
        f"reweight_word({word!r}, {by})", ("probs",), kind="cross", prepare=prepare, branches=branches, **where
    )  # fmt: skip


def share_keys(image: int = 0, *, mix: float = 1.0, **where: Unpack[Chosen]) -> ReadyEdit:
    """Gives every image of the batch the keys (or values) of one image; use it at self-attention's `k` and `v`.

    mix: 1 replaces, between 0 and 1 blends. Source of the idea: Hertz et al. 2023 (StyleAligned), Alaluf et al. 2023.
    """
    share = number(mix, "share_keys mix", 0)

    def prepare(run: RunShape, chosen: tuple[str, ...]):
        if not 0 <= image < run.images:
            raise ValueError(f"share_keys({image}): this run has images 0..{run.images - 1}")

        def change(part: Tensor, at: At, labels: list[str]) -> Tensor:
            whole = part.unflatten(0, (len(chosen), run.images))
            return (share * whole[:, image : image + 1] + (1 - share) * whole).flatten(0, 1)

        return change

    if "images" in where:
        raise ValueError("share_keys always acts on all images of the batch; leave images= out")
    return ReadyEdit(f"share_keys({image})", ("k", "v"), kind="self", prepare=prepare, **where)


def sac(setting: SAC | None = None, **where: Unpack[Chosen]) -> ReadyEdit:
    """Self-Attention Cloning as an edit of `logits`, for a run with sac=None: equal to the built-in SAC before the softmax.

    setting: all but its placement is used; the selector and where= decide where it acts.
    Source: Gu et al. 2024 (Analogist), Sec. 4.2.
    """
    return _cloning(SAC() if setting is None else setting, f"sac(scale={setting.scale if setting else SAC.scale})", where)


def sac_blended(blend: float, scale: float = 1.3, **where: Unpack[Chosen]) -> ReadyEdit:
    """Self-Attention Cloning in part: M(A', B') := blend s M(A, B) + (1 - blend) M(A', B'), and its mirror.

    blend: 0 (the block as it was) to 1 (the clone alone). An edit of `logits`, for a run with sac=None; as a setting: SAC(blend=...).
    """
    return _cloning(SAC(blend=blend, scale=scale), f"sac_blended({blend}, scale={scale})", where)


def sac_aligned(scale: float = 1.3, **where: Unpack[Chosen]) -> ReadyEdit:
    """Self-Attention Cloning whose rows keep the maximum of the row they replace, so that a block gains no weight by being cloned.

    An edit of `logits`, for a run with sac=None; as a setting: SAC(align=True).
    """
    return _cloning(SAC(align=True, scale=scale), f"sac_aligned(scale={scale})", where)


def scale_blocks(by: float | Scaled = 1.3, others: float = 1.0, **where: Unpack[Chosen]) -> ReadyEdit:
    """Multiplies what B' reads of A', and all other blocks by another factor, in place of cloning.

    by: the factor of the block B' -> A', or (query, key, factor) of each block. others: of all blocks not named.
    An edit of `logits`, for a run with sac=None; as a setting: SAC(clone=None, scaled=..., others=...).
    """
    return _cloning(SAC(clone=None, scaled=by, others=others), f"scale_blocks({by}, others={others})", where)


def _cloning(cloning: SAC, name: str, where: Chosen) -> ReadyEdit:
    if cloning.stage != "scores":
        raise ValueError("sac as an edit always clones before the softmax; give SAC(stage='scores')")

    def change(part: Tensor, at: At) -> Tensor:
        untouched, M = at.cells(part.clone()), at.cells(part)
        for query, key, from_query, from_key, s in cloning.blocks(at.rows):
            written, read = query + key, from_query + from_key
            M[written] = s * untouched[read]
            if cloning.varied and read != written:
                M[written] = cloning.vary(M[written], untouched[written])
        return part

    return ReadyEdit(name, ("logits",), change, kind="self", **where)


def cam(setting: CAM | None = None, **where: Unpack[Chosen]) -> ReadyEdit:
    """Cross-Attention Masking as an edit of `probs`, for a run with cam=None. Source: Gu et al. 2024 (Analogist), Sec. 4.3."""
    masking = CAM() if setting is None else setting

    def change(part: Tensor, at: At) -> Tensor:
        M = at.cells(part)
        for cell in masking.cells(at.rows):
            M[cell] = 0
        return part

    return ReadyEdit(f"cam(silence={masking.silence})", ("probs",), change, kind="cross", **where)
