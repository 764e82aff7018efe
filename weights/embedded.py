"""The checkpoints that come with the package: a name and a folder each."""

from pathlib import Path

EMBEDDED = {
    "lab": "solves analogies of small drawings; the default",
    "lab-generic": "never saw an analogy, as Stable Diffusion never did: SAC and CAM have to do the work",
}


def embedded(name: str) -> Path:
    """The folder of an embedded checkpoint. Raises ValueError for another name."""
    if name not in EMBEDDED:
        raise ValueError(f"no embedded checkpoint {name!r}; there are {', '.join(EMBEDDED)}")
    return Path(__file__).resolve().parent / name
