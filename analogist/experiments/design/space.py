"""What a study can vary on one checkpoint: its attention layers, their token maps and heads, and its default settings."""

from dataclasses import dataclass

from analogist.config import AnalogistConfig
from analogist.models.placement import Site


@dataclass(frozen=True)
class Layer:
    """One transformer block.

    site: its self-attention. part: encoder, middle or decoder. hw: rows and columns of its token map.
    """

    site: Site
    part: str
    hw: tuple[int, int]

    @property
    def number(self) -> int:
        """In execution order, from 0."""
        return self.site.layer

    @property
    def stride(self) -> int:
        """Latent pixels per token, along one side."""
        return self.site.stride

    @property
    def heads(self) -> int:
        """Number of attention heads."""
        return self.site.heads


PARTS = {"down": "encoder", "mid": "middle", "up": "decoder"}


@dataclass(frozen=True)
class Space:
    """The layers of a checkpoint at one picture size, and its own settings."""

    layers: tuple[Layer, ...]
    config: AnalogistConfig
    size: tuple[int, int]

    @classmethod
    def of(cls, sites: tuple[Site, ...], config: AnalogistConfig, size: tuple[int, int], factor: int) -> "Space":
        """sites: the UNet's. size: height and width of the grid in pixels. factor: pixels per latent pixel, along one side."""
        latent = (size[0] // factor, size[1] // factor)
        layers = tuple(Layer(site, PARTS[site.name.split(".")[0]], site.hw(latent)) for site in sites if site.kind == "self")
        return cls(layers, config, size)

    @property
    def numbers(self) -> list[int]:
        """All layer numbers."""
        return [layer.number for layer in self.layers]

    def resolutions(self) -> list[int]:
        """The strides of the layers, finest first: resolution 1/stride of the latents."""
        return sorted({layer.stride for layer in self.layers})

    def at_stride(self, stride: int) -> list[int]:
        """Numbers of the layers at a stride."""
        return [layer.number for layer in self.layers if layer.stride == stride]

    def at_map(self, rows: int, columns: int) -> list[int]:
        """Numbers of the layers whose token map has these rows and columns."""
        return [layer.number for layer in self.layers if layer.hw == (rows, columns)]

    def in_part(self, part: str) -> list[int]:
        """Numbers of the layers of the encoder, middle or decoder."""
        return [layer.number for layer in self.layers if layer.part == part]
