"""Self- and cross-attention in the explicit form, as in the paper: SAC and CAM are inline, every tensor is named.

    x -> q k v -> scores --(SAC)--> logits --softmax--(CAM)--> probs --.v--> head_out --to_out--> out

A point is the value that the next line of forward uses; edits run first, then captures copy. `see` is the tap, bound once per forward;
if nobody looks, it returns its argument. The point `stream`, what the result is added to, is seen by the block (transformer.py).
`fused.py` computes the same attention without a map; `AttentionControl.form_at` chooses, site by site.
Source: Vaswani et al. 2017, Eq. (1); Rombach et al. 2022; Gu et al. 2024 (Analogist), Sec. 4.2 and 4.3.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from . import fused
from .cells import cross_cells, self_cells
from .control import AttentionControl, Seeing, unseen
from .cpu_tricks import softmax_in_place
from .placement import Site


class Attention(nn.Module):
    """Projections shared by both kinds, and the choice of form.

    channels: of the tokens. heads: number of heads. context: channels of the tensor from which keys and values are computed.
    """

    def __init__(self, channels: int, heads: int, context: int) -> None:
        super().__init__()
        if channels % heads:
            raise ValueError(f"{channels} channels do not divide into {heads} heads")
        self.heads = heads
        self.to_q = nn.Linear(channels, channels, bias=False)
        self.to_k = nn.Linear(context, channels, bias=False)
        self.to_v = nn.Linear(context, channels, bias=False)
        self.to_out = nn.Linear(channels, channels)
        self.site: Site  # set by the UNet, which knows the execution order

    @property
    def widths(self) -> dict[str, int]:
        """Channels at each point that has a channel axis."""
        channels = self.to_q.out_features
        return {"stream": channels, "x": channels, "out": channels} | dict.fromkeys(("q", "k", "v", "head_out"), channels // self.heads)

    def extra_repr(self) -> str:
        return f"site={getattr(self, 'site', None)}, heads={self.heads}"

    def split(self, x: Tensor) -> Tensor:
        """batch token (head d) -> batch head token d."""
        return torch.unflatten(x, -1, (self.heads, -1)).transpose(1, 2)

    def join(self, x: Tensor) -> Tensor:
        """batch head token d -> batch token (head d)."""
        return x.transpose(1, 2).flatten(2)

    def softmax(self, logits: Tensor, control: AttentionControl) -> Tensor:
        """Probabilities over the keys, in the type of the logits; torch sums half precisions in float32.

        If nobody keeps the logits, they are overwritten, so that memory holds one map less.
        """
        held = logits.requires_grad or control.wants(self.site, "scores", "logits")
        return logits.softmax(-1) if held else softmax_in_place(logits)

    def by_heads(self, q: Tensor, k: Tensor, v: Tensor, hw: tuple[int, int], control: AttentionControl, see: Seeing) -> Tensor:
        """The explicit form for all heads, in slices of heads that keep the maps small. q, k, v: batch head token d -> the same."""
        parts: list[Tensor] = []
        for heads in self.slices(q, k, control):
            some = slice(heads.start, heads.stop)
            parts.append(self.explicit(q[:, some], k[:, some], v[:, some], hw, control, heads, see))
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def explicit(
        self, q: Tensor, k: Tensor, v: Tensor, hw: tuple[int, int], control: AttentionControl, heads: range, see: Seeing
    ) -> Tensor:
        """Attention with an explicit map, for the given heads; each kind of attention defines it."""
        raise NotImplementedError

    def slices(self, q: Tensor, k: Tensor, control: AttentionControl) -> Iterator[range]:
        """Ranges of heads whose maps fit the budget; heads are independent, so every map stays whole."""
        whole = control.whole(self.site)
        one_head = q.shape[0] * q.shape[2] * k.shape[2] * max(q.element_size(), 4)  # sums of half precisions take float32
        width = self.heads if whole else max(1, min(self.heads, control.map_bytes // one_head))
        return (range(start, min(start + width, self.heads)) for start in range(0, self.heads, width))


class SelfAttention(Attention):
    """Tokens of the picture attend to each other; M_s is its map. Here SAC acts."""

    def forward(self, x: Tensor, hw: tuple[int, int], control: AttentionControl) -> Tensor:
        """x: batch token channel, row-major over hw -> the same shape."""
        see = control.tap_at(self.site, hw)
        x = see("x", x)
        q = see("q", self.split(self.to_q(x)))
        k = see("k", self.split(self.to_k(x)))
        v = see("v", self.split(self.to_v(x)))
        if control.form_at(self.site) == "fused":
            head_out = fused.self_attention(q, k, v, hw, control, self.site)
        else:
            head_out = self.by_heads(q, k, v, hw, control, see)
        head_out = see("head_out", head_out)
        return see("out", self.to_out(self.join(head_out)))

    def explicit(
        self, q: Tensor, k: Tensor, v: Tensor, hw: tuple[int, int], control: AttentionControl, heads: range, see: Seeing
    ) -> Tensor:
        """Attention with an explicit map, for the given heads. q, k, v: batch head token d -> the same."""
        scores = see("scores", (q * q.shape[-1] ** -0.5) @ k.mT, heads)
        logits = see("logits", self.cloned(scores, "scores", hw, control, heads), heads)
        probs = self.softmax(logits, control)
        probs = see("probs", self.cloned(probs, "probs", hw, control, heads), heads)
        return probs @ v

    def cloned(self, maps: Tensor, stage: str, hw: tuple[int, int], control: AttentionControl, heads: range) -> Tensor:
        """Self-Attention Cloning on maps [batch head query key]: published on the scores; on the probabilities, a variant whose rows no
        longer sum to 1. The published clones are A' -> B' := s * (A -> B), and its mirror B' -> A' := s * (B -> A).
        """
        clones = control.clones_at(self.site, stage, heads)
        if not clones:
            return maps
        result = maps.clone()
        S, M = self_cells(maps, hw, control.rows), self_cells(result, hw, control.rows)
        for where, sac, written, read, s in clones:
            rows = where.on(maps.device)
            M[written][rows] = s * S[read][rows]
            if sac.varied and read != written:  # blended or aligned
                M[written][rows] = sac.vary(M[written][rows], S[written][rows])
        return result


class CrossAttention(Attention):
    """Tokens of the picture read the text; M_c is its map. Here CAM acts."""

    def keys_values(self, text: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of the text, batch head token d: the same in every step, so computed once per run."""
        return self.split(self.to_k(text)), self.split(self.to_v(text))

    def forward(
        self, x: Tensor, text: tuple[Tensor, Tensor], hw: tuple[int, int], control: AttentionControl
    ) -> Tensor:
        """x: batch token channel; text: its keys and values (`keys_values`) -> batch token channel."""
        see, form = control.tap_at(self.site, hw), control.form_at(self.site)
        x = see("x", x)
        silenced = control.cam_at(self.site)
        if form == "fused" and (see is unseen or not control.wants(self.site, "q", "k", "v", "head_out", "out")):
            heard = fused.uniformly_heard(silenced, control.rows)
            if heard is not None:  # only these cells attend to the text; the others get the output projection's bias
                return fused.cross_attention_of_cells(self, x, *text, hw, control.rows, heard)
        q = see("q", self.split(self.to_q(x)))
        k, v = text
        if see is not unseen:  # they are reused in later steps: an edit gets a copy, so that writing in place cannot change the next step
            k, v = see("k", k.clone()), see("v", v.clone())
        if form == "fused":
            head_out = fused.cross_attention(q, k, v, hw, silenced, control.rows)
        else:
            head_out = self.by_heads(q, k, v, hw, control, see)
        head_out = see("head_out", head_out)
        return see("out", self.to_out(self.join(head_out)))

    def explicit(
        self, q: Tensor, k: Tensor, v: Tensor, hw: tuple[int, int], control: AttentionControl, heads: range, see: Seeing
    ) -> Tensor:
        """Attention with an explicit map, for the given heads. q: batch head query d; k, v: batch head token d -> batch head query d."""
        scores = see("scores", (q * q.shape[-1] ** -0.5) @ k.mT, heads)
        logits = see("logits", scores, heads)
        probs = self.softmax(logits, control)
        if silenced := control.cam_at(self.site, heads):  # Cross-Attention Masking: M_c(A) = M_c(A') = M_c(B) := 0
            probs = probs.clone()
            M = cross_cells(probs, hw, control.rows)
            for where, cam in silenced:
                rows = where.on(probs.device)
                for cell in cam.cells(control.rows):
                    M[cell][rows] = 0
        probs = see("probs", probs, heads)
        return probs @ v
