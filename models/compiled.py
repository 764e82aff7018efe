"""The UNet compiled: one graph for every pattern of what acts on attention, SAC and CAM included.

A `Pattern` says what an AttentionControl does at every site; it is resolved on the host before the graph is traced. It holds neither step
nor time nor seed, so that one graph serves all of them. A tap is one opaque operation in the graph: captures and edits run as ordinary
Python, with their step, and everything around them stays compiled.
"""

import inspect
import time
import warnings
from collections.abc import Callable, Hashable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .control import CAM, EVERYTHING, SAC, AttentionControl, Index, Seeing, Setting, Where, unseen
from .placement import Placement, Site
from .text import PreparedText

if TYPE_CHECKING:
    from .unet import UNet

# Measured with torch 2.13 on one core, others at work beside it: 89 s of the processor to compile the lab checkpoint's UNet, and steps of
# 0.045 s in place of 0.058 s (medians of 15 in turn). At Stable Diffusion's size it was not measured.
ON_CPU = (
    "on a CPU it does not pay: the small UNet of the lab checkpoint takes 89 s to compile and then saves 0.013 s a step, so that anything "
    "is gained only after some 140 runs. Leave compile out, or use a GPU"
)

_running: ContextVar[tuple[AttentionControl, dict[str, Site]]] = ContextVar("control and sites of the compiled call that runs")


@dataclass(frozen=True)
class Acting:
    """What acts at one site. sac, cam: settings without their placement, and where in the batch. points: those the tap looks at."""

    form: str
    sac: tuple[tuple[Where, SAC], ...] = ()
    cam: tuple[tuple[Where, CAM], ...] = ()
    points: frozenset[str] = frozenset()
    whole: bool = False


@dataclass(frozen=True)
class Look:
    """A tap as one operation of the graph: `Seeing` at the points of one site.

    Unlike `Bound` it holds neither tap nor control: these change from run to run, and a graph that held them could not be shared.
    """

    site: Site
    hw: tuple[int, int]
    points: frozenset[str]

    def __call__(self, point: str, tensor: Tensor, heads: range | None = None) -> Tensor:
        if point not in self.points:
            return tensor
        first, last = (0, self.site.heads) if heads is None else (heads.start, heads.stop)
        return torch.ops.analogist.look(tensor, self.site.name, point, self.hw[0], self.hw[1], first, last)


@torch.library.custom_op("analogist::look", mutates_args=())
def _look(tensor: Tensor, site: str, point: str, rows: int, columns: int, first: int, last: int) -> Tensor:
    control, sites = _running.get()
    at = control.at(sites[site], point, (rows, columns), range(first, last))
    seen = tensor.clone()  # an edit may write into what it gets; the graph's own tensor stays
    if control.tap is not None:
        seen = control.tap(seen, at)
    return seen.to(tensor.dtype).contiguous()


@_look.register_fake  # pyright: ignore[reportUnknownMemberType]
def _(tensor: Tensor, site: str, point: str, rows: int, columns: int, first: int, last: int) -> Tensor:
    return torch.empty_like(tensor, memory_format=torch.contiguous_format)


@dataclass(frozen=True)
class Held(Where):
    """Rows and heads whose index tensors exist already, so that none is made in the graph."""

    index: Index = field(default=(), compare=False)

    def on(self, device: torch.device) -> Index:
        return self.index


@dataclass(frozen=True, kw_only=True, eq=False)
class Pattern(AttentionControl):
    """An AttentionControl resolved at every site: what acts in one UNet call, without step, time and tap. Equal ones share a graph."""

    acting: tuple[tuple[str, Acting], ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "by_site", dict(self.acting))

    by_site: dict[str, Acting] = field(init=False, repr=False)

    def _content(self) -> tuple[object, ...]:
        return self.branches, self.images, self.rows, self.map_bytes, self.acting

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Pattern) and self._content() == other._content()

    def __hash__(self) -> int:
        return hash(self._content())

    @classmethod
    def of(cls, control: AttentionControl, sites: Sequence[Site], places: Sequence[Site], device: torch.device) -> "Pattern":
        """Resolves placements, forms and the tap's wishes at every site. Raises ValueError as `AttentionControl.form_at`."""
        nowhere = Placement.nowhere()

        def held(where: Where) -> Where:
            return where if where == EVERYTHING else Held(where.rows, where.heads, where.on(device))

        acting: list[tuple[str, Acting]] = []
        for site in sites:
            sac = control.sac_at(site) if site.kind == "self" else []
            cam = control.cam_at(site) if site.kind == "cross" else []
            one = Acting(
                control.form_at(site), tuple((held(where), replace(setting, placement=nowhere)) for where, setting in sac),
                tuple((held(where), replace(setting, placement=nowhere)) for where, setting in cam),
                _points(control, site), control.whole(site),
            )  # fmt: skip
            acting.append((site.name, one))
        acting += [(place.name, Acting("", points=points)) for place in places if (points := _points(control, place))]
        return cls(
            branches=control.branches, images=control.images, rows=control.rows, map_bytes=control.map_bytes, acting=tuple(acting)
        )

    @property
    def looked_at(self) -> list[str]:
        """Names of the sites and blocks at which the tap looks."""
        return [name for name, acting in self.acting if acting.points]

    def tap_at(self, site: Site, hw: tuple[int, int]) -> Seeing:
        acting = self.by_site.get(site.name)
        return unseen if acting is None or not acting.points else Look(site, hw, acting.points)

    def wants(self, site: Site, *points: str) -> bool:
        return any(point in self.by_site[site.name].points for point in points)

    def whole(self, site: Site) -> bool:
        return self.by_site[site.name].whole

    def form_at(self, site: Site) -> str:
        return self.by_site[site.name].form

    def sac_at(self, site: Site, heads: range | None = None) -> list[tuple[Where, SAC]]:
        return _of_heads(self.by_site[site.name].sac, site, heads)

    def cam_at(self, site: Site, heads: range | None = None) -> list[tuple[Where, CAM]]:
        return _of_heads(self.by_site[site.name].cam, site, heads)


def _points(control: AttentionControl, site: Site) -> frozenset[str]:
    return frozenset() if control.tap is None else frozenset(point for point in site.points if control.wants(site, point))


def _of_heads(groups: tuple[tuple[Where, Setting], ...], site: Site, heads: range | None) -> list[tuple[Where, Setting]]:
    """The groups for a slice of the heads."""
    if heads is None or len(heads) == site.heads:
        return list(groups)
    out: list[tuple[Where, Setting]] = []
    for where, setting in groups:
        some = tuple(head - heads.start for head in where.heads or range(site.heads) if head in heads)
        if some:
            out.append((Where(where.rows, None if len(some) == len(heads) else some), setting))
    return out


Graph = Callable[[Tensor, Tensor, PreparedText], Tensor]
_compile: Callable[..., Graph] = vars(torch)["compile"]  # by its name: the types that torch gives it lack isolate_recompiles


def refusal(device: torch.device) -> str | None:
    """Why networks are not compiled on a device, None where they are."""
    if "isolate_recompiles" not in inspect.signature(_compile).parameters:
        return f"torch {torch.__version__} allows too few graphs of one function; torch 2.13 has what is needed"
    if device.type == "cpu":
        return ON_CPU
    return None


class Compiled:
    """Runs the layers of a UNet as compiled graphs, one for every pattern and shape. Only the graphs are kept after a run.

    backend: of torch.compile. mode: its mode where no tap looks ("reduce-overhead" replays a CUDA graph); with a tap, which runs Python
    within the graph, it is the default. announce: called with one line on what is about to be compiled, then with one on how long it took.
    """

    def __init__(
        self, backend: "str | Callable[..., object]" = "inductor", mode: str | None = None, announce: Callable[[str], None] | None = None
    ) -> None:
        self.backend, self.mode, self.announce = backend, mode, announce
        self.graphs: dict[Hashable, Graph] = {}

    @property
    def name(self) -> str:
        """Of the backend."""
        return self.backend if isinstance(self.backend, str) else getattr(self.backend, "__name__", type(self.backend).__name__)

    def __call__(self, unet: "UNet", x: Tensor, t: int | Tensor, text: PreparedText, control: AttentionControl) -> Tensor:
        """The UNet's output; arguments as of its forward, which has checked them."""
        pattern = Pattern.of(control, unet.sites, unet.places, x.device)
        times = t.to(x.device).reshape(-1) if isinstance(t, Tensor) else torch.full((1,), t, device=x.device)
        key = (pattern, x.shape, x.dtype, x.device, text.text.shape, times.shape, torch.is_inference_mode_enabled())
        token = _running.set((control, {site.name: site for site in (*unet.sites, *unet.places)}))
        try:
            if key in self.graphs:
                return self.graphs[key](x, times, text)
            return self._first(key, unet, pattern, x, times, text)
        finally:
            _running.reset(token)

    def _first(self, key: Hashable, unet: "UNet", pattern: Pattern, x: Tensor, times: Tensor, text: PreparedText) -> Tensor:
        """The first call of a pattern, which compiles its graph."""

        def layers(x: Tensor, times: Tensor, text: PreparedText) -> Tensor:
            return unet.layers(x, times, text, pattern)

        mode = {"mode": self.mode} if self.mode is not None and not pattern.looked_at else {}
        graph = _compile(layers, backend=self.backend, fullgraph=True, dynamic=False, isolate_recompiles=True, **mode)
        begun = time.monotonic()
        if self.announce is not None:
            looks = f", with {len(pattern.looked_at)} places looked at" if pattern.looked_at else ""
            self.announce(f"compiling the UNet for {x.shape[0]} x {x.shape[2]} x {x.shape[3]} latents{looks} ...")
        with warnings.catch_warnings():
            # What is remembered by lru_cache here is a function of its arguments alone, so that tracing through it is right.
            warnings.filterwarnings("ignore", message="Dynamo detected a call to a `functools.lru_cache`-wrapped function")
            out = graph(x, times, text)
        self.graphs[key] = graph
        if self.announce is not None:
            self.announce(f"compiled in {time.monotonic() - begun:.0f} s")
        return out
