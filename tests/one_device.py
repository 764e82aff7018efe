"""A device that is not there: networks on the `meta` device, and a watch over every operation.

The meta device computes shapes only. `OneDevice` raises where tensors of the host and of the device meet in one operation, as a card
would (the meta device itself lets some pass), and where a value is read back outside the places listed. There it answers with zeros
and with true, or with 1 for a single number, so that the code goes on.
"""

import sys
from pathlib import Path

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from analogist.pipeline import Analogist
from tests.experiments_small import load_model

ROOT = Path(__file__).parent.parent
META = torch.device("meta")

# Where a value may become a Python number, a picture, or what is kept of a capture.
READS = {
    "models/ddim.py:__post_init__": "whether a schedule ends in pure noise, once where it is made",
    "analogist/run/transfer.py:read": "whether latents are finite",
    "analogist/run/sampling.py:decode": "whether the pixels are finite",
    "analogist/grid/prompt_grid.py:to_image": "pixels become a picture",
    "analogist/run/known_pictures.py:loss": "the loss of a known picture",
    "analogist/run/known_pictures.py:invert": "whether a step could be inverted, and the error of reconstruction",
    "analogist/attention/capture/spill.py:write": "what is captured goes to memory or a file",
    "analogist/attention/capture/keep.py:_collect": "what is summed over steps goes to memory",
}

INDEXED = ("index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index_put")


class Mixed(AssertionError):
    """An operation that a card would refuse, or for which it would have to wait."""


def place() -> str:
    """The function of the product that is running, as file:function."""
    frame = sys._getframe(1)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(ROOT) and path.relative_to(ROOT).parts[0] in ("analogist", "models", "weights"):
            return f"{path.relative_to(ROOT).as_posix()}:{frame.f_code.co_name}"
        frame = frame.f_back
    return "outside"


class Making(TorchFunctionMode):
    """Notes the places at which Python numbers become a tensor of the device, which the dispatcher does not see."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[str] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func in (torch.tensor, torch.as_tensor) and out.device == META:
            if not isinstance(args[0], torch.Tensor):
                self.made.append(place())
        elif func in (torch.Tensor.__getitem__, torch.Tensor.__setitem__) and args[0].device == META:
            parts = args[1] if isinstance(args[1], tuple) else (args[1],)
            if any(isinstance(part, list | range) for part in parts):
                self.made.append(place())
        return out


class OneDevice(TorchDispatchMode):
    """Watches every operation while it is entered.

    reads: places at which a value came back to the host. moves: places at which a tensor went to the device. made: places at which
    one was made of Python numbers, which a card has to copy. index_copies: places that index a tensor of the device by one of the host,
    which a card does after copying the index.
    """

    def __init__(self) -> None:
        super().__init__()
        self.reads: list[str] = []
        self.moves: list[str] = []
        self.making = Making()
        self.made = self.making.made
        self.index_copies: list[str] = []

    def __enter__(self) -> "OneDevice":
        self.making.__enter__()
        return super().__enter__()

    def __exit__(self, *raised) -> None:
        super().__exit__(*raised)
        self.making.__exit__(*raised)

    def _read(self, name: str) -> None:
        where = place()
        if where not in READS:
            raise Mixed(f"{where}: {name} reads a value of the device back to the host")
        self.reads.append(where)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        there = [one for one in tensors if one.device == META]
        here = [one for one in tensors if one.device.type == "cpu"]
        if there and name in ("_local_scalar_dense", "equal"):
            self._read(name)
            return True if there[0].dtype == torch.bool or name == "equal" else torch.ones((), dtype=there[0].dtype).item()
        if there and name in ("nonzero", "masked_select", "unique_dim", "_unique2"):
            raise Mixed(f"{place()}: {name} has a shape that only the device knows")
        if name == "_to_copy":
            to = torch.device(kwargs.get("device") or args[0].device)
            if there and to.type == "cpu":
                self._read(name)
                dtype = kwargs.get("dtype") or args[0].dtype
                return torch.full(args[0].shape, dtype == torch.bool, dtype=dtype)
            if here and to == META:
                self.moves.append(place())
        elif name == "copy_" and there and here:
            if args[0].device == META:
                self.moves.append(place())
            else:
                self._read(name)
                return args[0].zero_()
        elif there and name in INDEXED and any(one.ndim for one in here):
            if args[0].device != META or any(one.dtype == torch.bool for one in here):
                raise Mixed(f"{place()}: {name} mixes the host and the device")
            self.index_copies.append(place())
        elif there and any(one.ndim for one in here):  # a single number of the host may stand beside tensors of the device
            raise Mixed(f"{place()}: {name} mixes the host ({[tuple(one.shape) for one in here]}) and the device")
        return func(*args, **kwargs)


def meta_model() -> Analogist:
    """The small model of the experiments' tests, with every network on the meta device."""
    model = load_model()
    for network in (model.unet, model.vae, *model.text.models):
        network.to(META)
    with OneDevice():
        model.device, model.schedule = META, model.schedule.to(META)
    return model
