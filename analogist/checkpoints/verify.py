"""Checks that a checkpoint is complete and works: all tensors, the published bytes, finite numbers, one tiny UNet call."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from safetensors import safe_open

from analogist.checkpoints.hub_files import sha256
from analogist.models.clip_text import CLIPText, CLIPTextConfig
from analogist.models.control import AttentionControl
from analogist.models.text import EncodedText, PooledText
from analogist.models.unet import UNet, UNetConfig
from analogist.models.vae import VAE, VAEConfig
from analogist.weights.checkpoint import NAMES, Checkpoint
from analogist.weights.header import FLOATS
from analogist.weights.known import known
from analogist.weights.load import WeightsError, open_checkpoint
from analogist.weights.strict import demand


@dataclass(frozen=True)
class Check:
    """One check and its result. passed None: it could not be decided, and the text says why."""

    name: str
    passed: bool | None
    text: str


def verify(path: str | Path, *, config: str | Path | dict | None = None, progress: bool = True) -> Iterator[Check]:
    """Checks a checkpoint's file or folder and yields each result at once. Stops when a failed check makes the later ones pointless.

    Raises WeightsError only for a path that does not exist.
    """
    path = Path(path)
    if not path.exists():
        raise WeightsError(f"{path}: no such file or folder")
    try:
        checkpoint = open_checkpoint(path, config=config)
        modules = demand_complete(checkpoint)
    except WeightsError as error:
        yield Check("complete", False, str(error))
        return
    yield Check("family", True, f"{checkpoint.family}: {checkpoint.description}, {checkpoint.layout}")
    parameters = {part: sum(tensor.numel() for tensor in module.parameters()) for part, module in modules.items()}
    yield Check("complete", True, ", ".join(f"{NAMES[part]} {count:,} parameters" for part, count in parameters.items()))
    yield from _hashes(checkpoint, progress)
    finite = _finite(checkpoint)
    yield finite
    if finite.passed:
        yield _call(checkpoint, cast(UNet, modules["unet"]))


def demand_complete(checkpoint: Checkpoint) -> dict[str, torch.nn.Module]:
    """Its networks on the meta device, by part. Raises WeightsError where a tensor is missing, extra, misshapen or twice; loads nothing."""
    modules = _modules(checkpoint)
    for part, module in modules.items():
        demand(checkpoint.compare(part, module), NAMES[part], checkpoint.sources[part].found.label, checkpoint.description)
    return modules


def _modules(checkpoint: Checkpoint) -> dict[str, torch.nn.Module]:
    with torch.device("meta"):
        second = checkpoint.text_2
        return {
            **({} if second is None else {"text_2": CLIPText(CLIPTextConfig(**second), projected=True)}),
            "unet": UNet(UNetConfig(**checkpoint.unet)),
            "vae": VAE(VAEConfig(**checkpoint.vae)),
            "text": CLIPText(CLIPTextConfig(**checkpoint.text)),
        }


def _hashes(checkpoint: Checkpoint, progress: bool) -> Iterator[Check]:
    """Compares each weight file's SHA-256 with the published ones, or with the one that the hub cache uses as the file's name."""
    sources = [source for entry in known().values() for source in entry.sources]
    published = {digest: f"{source}: {name}" for source in sources for name, digest in source.sha256.items()}
    files = {header.path for source in checkpoint.sources.values() for header in source.found.headers}
    for file in sorted(files):
        name, blob = str(file.relative_to(checkpoint.path)) if checkpoint.layout == "folder" else file.name, file.resolve()
        digest = sha256(blob, label=name, progress=progress)
        kept_as = blob.name if len(blob.name) == 64 and set(blob.name) <= set("0123456789abcdef") else None
        if digest in published:
            yield Check("hash", True, f"{name} is the published {published[digest]}")
        elif kept_as is not None:
            yield Check("hash", digest == kept_as, f"{name}: SHA-256 {digest[:16]}.., its name in the hub cache says {kept_as[:16]}..")
        else:
            yield Check("hash", None, f"{name}: no published hash is known for this file; its SHA-256 is {digest}")


def _finite(checkpoint: Checkpoint) -> Check:
    """Checks every number of every weight that is loaded."""
    bad: list[str] = []
    count = 0
    for source in checkpoint.sources.values():
        by_file: dict[Path, set[str]] = {}
        for piece in source.mapped.pieces.values():
            for info in (piece.info, piece.scale):
                if info is not None and info.dtype in FLOATS:
                    by_file.setdefault(info.path, set()).add(info.name)
        for path, names in by_file.items():
            with safe_open(path, "pt") as file:
                for name in sorted(names):
                    tensor = file.get_tensor(name)
                    count += tensor.numel()
                    values = tensor if tensor.dtype.itemsize > 1 else tensor.float()  # 8-bit floats have no isfinite
                    if not values.isfinite().all():
                        bad.append(name)
    if bad:
        return Check("finite", False, f"NaN or infinity in {len(bad)} tensors: {', '.join(bad[:8])}{' ...' if len(bad) > 8 else ''}")
    return Check("finite", True, f"{count:,} numbers")


@torch.no_grad()
def _call(checkpoint: Checkpoint, unet: UNet) -> Check:
    """One UNet call on the smallest map that the network accepts, in float32 on the CPU."""
    checkpoint.load_unet(unet)
    unet.eval()
    side = 2 * max(site.stride for site in unet.sites)
    drawn = {"generator": torch.Generator("cpu").manual_seed(0), "dtype": torch.float32, "device": "cpu"}
    x = torch.randn(1, unet.config.in_channels, side, side, **drawn)
    text: EncodedText = torch.randn(1, 77, unet.config.text_width, **drawn)
    if unet.config.pooled_width:
        text = PooledText(text, torch.randn(1, unet.config.pooled_width, **drawn)).of_size(1024, 1024)
    eps = unet(x, 501, text, AttentionControl(branches=1))
    spread = eps.std().item()
    passed = bool(eps.isfinite().all()) and spread > 0
    return Check("unet call", passed, f"noise of {'x'.join(map(str, eps.shape))}, standard deviation {spread:.3f}")
