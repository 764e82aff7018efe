"""Self- and cross-attention in the explicit form, as the paper reads: SAC and CAM stand inline, every tensor is named.

    x -> q k v -> scores --(SAC)--> logits --softmax--(CAM)--> probs --.v--> head_out --to_out--> out

A point is the value that the next line of forward uses; edits run first, then captures copy. `fused.py` holds the same
attention without a map; `AttentionControl.form_at` chooses, site by site.
Source: Vaswani et al. 2017, Eq. (1); Rombach et al. 2022; Gu et al. 2024 (Analogist), Sec. 4.2 and 4.3.
"""

from collections.abc import Iterator

import torch
from einops import einsum, rearrange
from torch import Tensor, nn

from . import fused
from .cells import cross_cells, self_cells
from .control import AttentionControl
from .placement import MAP_POINTS, Site


class Attention(nn.Module):
    """Projections shared by both kinds, and the choice of form.

    channels: of the tokens. heads: number of heads. context: channels of what keys and values are read from.
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
        self.site: Site  # given by the UNet, which knows the execution order

    def extra_repr(self) -> str:
        return f"site={getattr(self, 'site', None)}, heads={self.heads}"

    def split(self, x: Tensor) -> Tensor:
        """batch token (head d) -> batch head token d."""
        return rearrange(x, "b n (head d) -> b head n d", head=self.heads)

    def join(self, x: Tensor) -> Tensor:
        """batch head token d -> batch token (head d)."""
        return rearrange(x, "b head n d -> b n (head d)")

    def softmax(self, logits: Tensor, control: AttentionControl) -> Tensor:
        """Probabilities over the keys, in the dtype of the logits; torch sums half precisions in float32.

        Where nobody holds the logits they are overwritten, so that one map less is in memory; not a bit of it changes.
        """
        if logits.requires_grad or control.wants(self.site, "scores", "logits"):
            return logits.softmax(-1)
        return torch.softmax(logits, -1, out=logits)

    def slices(self, q: Tensor, k: Tensor, control: AttentionControl) -> Iterator[range]:
        """Ranges of heads whose maps fit the budget; heads are independent, so that every map stays whole."""
        whole = control.wants(self.site, *MAP_POINTS) and control.tap.whole(self.site, control.step)
        one_head = q.shape[0] * q.shape[2] * k.shape[2] * max(q.element_size(), 4)  # the softmax is float32
        width = self.heads if whole else max(1, min(self.heads, control.map_bytes // one_head))
        return (range(start, min(start + width, self.heads)) for start in range(0, self.heads, width))


class SelfAttention(Attention):
    """Tokens of the picture attend to each other; M_s is its map. Here SAC acts."""

    def forward(self, x: Tensor, hw: tuple[int, int], control: AttentionControl) -> Tensor:
        """x: batch token channel, row-major over hw -> the same shape."""
        x = control.see(x, self.site, "x", hw)
        q = control.see(self.split(self.to_q(x)), self.site, "q", hw)
        k = control.see(self.split(self.to_k(x)), self.site, "k", hw)
        v = control.see(self.split(self.to_v(x)), self.site, "v", hw)
        if control.form_at(self.site) == "fused":
            head_out = fused.self_attention(q, k, v, hw, control, self.site)
        else:
            parts = [self.explicit(q, k, v, hw, control, heads) for heads in self.slices(q, k, control)]
            head_out = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
        head_out = control.see(head_out, self.site, "head_out", hw)
        return control.see(self.to_out(self.join(head_out)), self.site, "out", hw)

    def explicit(
        self, q: Tensor, k: Tensor, v: Tensor, hw: tuple[int, int], control: AttentionControl, heads: range
    ) -> Tensor:
        """The map in hand, for the given heads. q, k, v: batch head token d, all heads -> batch head token d."""
        q, k, v = (tensor[:, heads.start : heads.stop] for tensor in (q, k, v))
        cloned = [(where, sac, sac.blocks(control.rows)) for where, sac in control.sac_at(self.site, heads)]

        scores = einsum(q * q.shape[-1] ** -0.5, k, "b head query d, b head key d -> b head query key")
        scores = control.see(scores, self.site, "scores", hw, heads)

        logits = scores
        if any(sac.stage == "scores" for _, sac, _ in cloned):  # Self-Attention Cloning, before the softmax
            logits = scores.clone()
            S, M = self_cells(scores, hw, control.rows), self_cells(logits, hw, control.rows)
            for where, sac, blocks in cloned:
                if sac.stage == "scores":
                    for query, key, from_query, from_key, s in blocks:
                        # published: M_s(A', B') := s M_s(A, B), and its mirror M_s(B', A') := s M_s(B, A)
                        M[query + key][where] = s * S[from_query + from_key][where]
        logits = control.see(logits, self.site, "logits", hw, heads)

        probs = self.softmax(logits, control)
        if any(sac.stage == "probs" for _, sac, _ in cloned):  # the variant after the softmax, rows no longer sum to 1
            softmaxed, probs = probs, probs.clone()
            S, M = self_cells(softmaxed, hw, control.rows), self_cells(probs, hw, control.rows)
            for where, sac, blocks in cloned:
                if sac.stage == "probs":
                    for query, key, from_query, from_key, s in blocks:
                        M[query + key][where] = s * S[from_query + from_key][where]
        probs = control.see(probs, self.site, "probs", hw, heads)

        return einsum(probs, v, "b head query key, b head key d -> b head query d")


class CrossAttention(Attention):
    """Tokens of the picture read the text; M_c is its map. Here CAM acts."""

    def keys_values(self, text: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of the text, batch head token d: the same in every step, so computed once a run."""
        return self.split(self.to_k(text)), self.split(self.to_v(text))

    def forward(
        self, x: Tensor, text: tuple[Tensor, Tensor], hw: tuple[int, int], control: AttentionControl
    ) -> Tensor:
        """x: batch token channel; text: its keys and values (`keys_values`) -> batch token channel."""
        x = control.see(x, self.site, "x", hw)
        form = control.form_at(self.site)
        if form == "fused" and not control.wants(self.site, "q", "k", "v", "head_out", "out"):
            heard = fused.uniformly_heard(control, self.site)
            if heard is not None:  # only these cells hear text; the others get the output projection's bias
                return fused.cross_attention_of_cells(self, x, *text, hw, control.rows, heard)
        q = control.see(self.split(self.to_q(x)), self.site, "q", hw)
        # k and v outlive this step: an edit gets a copy, so that it can't change the next step by writing in place
        k, v = (
            control.see(kept.clone(), self.site, point, hw) if control.wants(self.site, point) else kept
            for kept, point in zip(text, ("k", "v"), strict=True)
        )
        if form == "fused":
            head_out = fused.cross_attention(q, k, v, hw, control, self.site)
        else:
            parts = [self.explicit(q, k, v, hw, control, heads) for heads in self.slices(q, k, control)]
            head_out = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
        head_out = control.see(head_out, self.site, "head_out", hw)
        return control.see(self.to_out(self.join(head_out)), self.site, "out", hw)

    def explicit(
        self, q: Tensor, k: Tensor, v: Tensor, hw: tuple[int, int], control: AttentionControl, heads: range
    ) -> Tensor:
        """The map in hand, for the given heads. q: batch head query d; k, v: batch head token d -> batch head query d."""
        q, k, v = (tensor[:, heads.start : heads.stop] for tensor in (q, k, v))

        scores = einsum(q * q.shape[-1] ** -0.5, k, "b head query d, b head token d -> b head query token")
        scores = control.see(scores, self.site, "scores", hw, heads)
        logits = control.see(scores, self.site, "logits", hw, heads)

        probs = self.softmax(logits, control)
        silenced = control.cam_at(self.site, heads)
        if silenced:  # Cross-Attention Masking: M_c(A) = M_c(A') = M_c(B) := 0
            probs = probs.clone()
            M = cross_cells(probs, hw, control.rows)
            for where, cam in silenced:
                for cell in cam.cells(control.rows):
                    M[cell][where] = 0
        probs = control.see(probs, self.site, "probs", hw, heads)

        return einsum(probs, v, "b head query token, b head token d -> b head query d")


