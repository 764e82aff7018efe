"""CLIP's text encoder: a causal transformer over a prompt's tokens, whose output the UNet's cross-attention reads.

Parameters have the names of transformers' CLIPTextModel, so that published text encoders and LoRAs fit as they are.

Source: Radford et al. 2021 (CLIP), Sec. 2.4; GELU by 1.702 from OpenAI's code, the exact one in OpenCLIP's text encoders (SD 2, SDXL).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn


def quick_gelu(x: Tensor) -> Tensor:
    """The approximation of GELU that CLIP was trained with. Source: Hendrycks and Gimpel 2016, Sec. 2."""
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"quick_gelu": quick_gelu, "gelu": F.gelu}
FIRST_EOS = 2  # the end token's id in early configs, which no tokenizer uses: the end token is then the largest id of a row


@dataclass(frozen=True)
class CLIPTextConfig:
    """The geometry of a text encoder, with the names and values that transformers' CLIPTextConfig has.

    projection_dim: channels of the pooled vector where there is one. eos_token_id: the end token, where the pooled vector is read.
    bos_token_id and pad_token_id are the tokenizer's affair and are only kept.
    """

    vocab_size: int = 49408
    hidden_size: int = 512
    intermediate_size: int = 2048
    projection_dim: int = 512
    num_hidden_layers: int = 12
    num_attention_heads: int = 8
    max_position_embeddings: int = 77
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5
    bos_token_id: int = 49406
    eos_token_id: int = 49407
    pad_token_id: int = 1

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(f"{self.num_attention_heads} heads do not divide a text encoder's width of {self.hidden_size}")
        if self.hidden_act not in ACTIVATIONS:
            raise ValueError(f"hidden_act {self.hidden_act!r} of a text encoder: allowed are {', '.join(ACTIVATIONS)}")


@dataclass(frozen=True)
class TextEncoding:
    """What a text encoder says of a batch of prompts.

    last: batch token channel — the last layer's output after the final norm (SD 1, SD 2). penultimate: batch token channel — what the
    last layer reads, without a norm (SDXL). pooled: batch projection_dim — `last` at the end token, projected; None without projection.
    """

    last: Tensor
    penultimate: Tensor
    pooled: Tensor | None


class Table(nn.Module):
    """One vector per row; zeros until it is loaded or initialised.

    nn.Embedding starts with normal numbers. On the meta device, where networks are built, drawing those imports torch's compiler, which
    takes two seconds.
    """

    def __init__(self, rows: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(rows, width, device=torch.get_default_device()))


class Embeddings(nn.Module):
    """Each token's vector plus its position's."""

    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__()
        self.token_embedding = Table(config.vocab_size, config.hidden_size)
        self.position_embedding = Table(config.max_position_embeddings, config.hidden_size)

    def forward(self, ids: Tensor) -> Tensor:
        """ids: batch token -> batch token channel."""
        return F.embedding(ids, self.token_embedding.weight) + self.position_embedding.weight[: ids.shape[1]]


class CausalAttention(nn.Module):
    """Self-attention in which a token reads itself and the tokens before it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """x: batch token channel -> the same."""
        q, k, v = (rearrange(proj(x), "b n (h d) -> b h n d", h=self.heads) for proj in (self.q_proj, self.k_proj, self.v_proj))
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out_proj(rearrange(out, "b h n d -> b n (h d)"))


class MLP(nn.Module):
    """Two linear layers with the activation between them, for each token separately."""

    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)
        self.activation = ACTIVATIONS[config.hidden_act]

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.activation(self.fc1(x)))


class Layer(nn.Module):
    """Attention and MLP, each added to the residual stream x: batch token channel."""

    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.self_attn = CausalAttention(config.hidden_size, config.num_attention_heads)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = MLP(config)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class Layers(nn.Module):
    """The layers in their order."""

    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))


class CLIPText(nn.Module):
    """The text encoder. projected: it ends in a projection of the end token, as SDXL's second one does.

    Raises ValueError where the config contradicts itself.
    """

    def __init__(self, config: CLIPTextConfig, *, projected: bool = False) -> None:
        super().__init__()
        self.config = config
        self.embeddings = Embeddings(config)
        self.encoder = Layers(config)
        self.final_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.text_projection = nn.Linear(config.hidden_size, config.projection_dim, bias=False) if projected else None

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.final_layer_norm.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The parameters' type, which is the encoding's too."""
        return self.final_layer_norm.weight.dtype

    def forward(self, ids: Tensor) -> TextEncoding:
        """ids: batch token, at most max_position_embeddings tokens."""
        x = penultimate = self.embeddings(ids)
        for layer in self.encoder.layers:
            penultimate, x = x, layer(x)
        last = self.final_layer_norm(x)
        return TextEncoding(last, penultimate, None if self.text_projection is None else self.text_projection(self.at_end(last, ids)))

    def at_end(self, last: Tensor, ids: Tensor) -> Tensor:
        """Each row at its first end token: batch token channel -> batch channel."""
        end = self.config.eos_token_id
        places = ids.argmax(dim=1) if end == FIRST_EOS else (ids == end).int().argmax(dim=1)
        return last[torch.arange(len(last), device=last.device), places]
