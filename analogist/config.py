"""Configuration of a run: sampling, SAC and CAM; presets; JSON in and out. No paths, seeds or devices here."""

import dataclasses
import json
import math
from dataclasses import dataclass, field
from pathlib import Path

from analogist.disk.foreign import naming, read_text
from analogist.disk.writing import shown
from analogist.models.control import CAM, SAC
from analogist.models.numbers import plain
from analogist.models.placement import Placement

NEGATIVE_PROMPT = "Messy,Disordered,Chaotic,Cluttered,Haphazard,Unkempt,Scattered,Disheveled,Tangled,Random"  # authors' code
PROMPT_SUFFIX = ", best quality, extremely detailed"  # appended to every prompt by the authors' code


def with_suffix(prompt: str, suffix: str) -> str:
    """The prompt as it is encoded, with the suffix; an empty prompt stays empty (the authors' code adds the suffix to every prompt)."""
    return prompt + suffix if prompt else ""


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How the sampler runs; the defaults are the published ones."""

    steps: int = 50  # of the whole schedule, 1..1000
    strength: float = 0.98  # (0, 1]: the part of the schedule that is run: its last int(steps * strength) steps
    guidance: float = 15.0  # classifier-free guidance weight, 0 or more; 1 is off (then only the text branch is run)
    eta: float = 0.0  # 0 is deterministic DDIM, 1 has DDPM's noise level

    def __post_init__(self) -> None:
        for name in ("steps", "strength", "guidance", "eta"):
            object.__setattr__(self, name, plain(getattr(self, name)))
        if isinstance(self.steps, bool) or not isinstance(self.steps, int) or not 1 <= self.steps <= 1000:
            raise ValueError(f"steps {self.steps!r}: a whole number in 1..1000 is allowed")
        for name in ("strength", "guidance", "eta"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise ValueError(f"{name} {value!r}: a finite number is allowed")
            object.__setattr__(self, name, float(value))
        if not 0 < self.strength <= 1:
            raise ValueError(f"strength {self.strength}: allowed is more than 0 and at most 1")
        if self.guidance < 0:
            raise ValueError(f"guidance {self.guidance}: allowed is 0 or more (1 is off)")
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta {self.eta}: allowed is 0..1")
        if int(self.steps * self.strength) < 1:
            raise ValueError(f"steps {self.steps} x strength {self.strength} leaves no step to run; raise one of them")

    @property
    def branches(self) -> int:
        """2 with classifier-free guidance; 1 (only the text branch) at guidance 1, where the negative branch has no weight."""
        return 1 if self.guidance == 1 else 2

    @property
    def executed(self) -> int:
        """How many steps are run."""
        return int(self.steps * self.strength)


@dataclass(frozen=True, kw_only=True)
class AnalogistConfig:
    """All settings of a run except pictures, prompts and seeds. None turns SAC or CAM off."""

    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    sac: SAC | None = field(default_factory=SAC)
    cam: CAM | None = field(default_factory=CAM)

    def __post_init__(self) -> None:
        for name, kind in (("sampling", SamplingConfig), ("sac", SAC), ("cam", CAM)):
            value = getattr(self, name)
            if not isinstance(value, kind) and not (value is None and name != "sampling"):
                raise ValueError(f"{name} {value!r}: give a {kind.__name__}" + ("" if name == "sampling" else " or None"))

    def replace(self, **changes) -> "AnalogistConfig":
        """A copy with some fields changed. Sampling fields (steps, strength, guidance, eta) can be given directly."""
        sampling = {key: changes.pop(key) for key in ("steps", "strength", "guidance", "eta") if key in changes}
        if sampling:
            changes["sampling"] = dataclasses.replace(changes.get("sampling", self.sampling), **sampling)
        return dataclasses.replace(self, **changes)

    def to_json(self) -> dict:
        """As plain values. `from_json` turns them into an equal configuration."""
        return {
            "sampling": dataclasses.asdict(self.sampling),
            "sac": None if self.sac is None else _sac_to_json(self.sac),
            "cam": None if self.cam is None else {"placement": self.cam.placement.to_json(), "silence": list(self.cam.silence)},
        }

    @classmethod
    def from_json(cls, data: dict, base: "AnalogistConfig | None" = None) -> "AnalogistConfig":
        """The configuration from plain values. Raises ValueError for unknown keys and values out of range.

        Missing fields are taken from base; None: from the published defaults.
        """
        base = cls() if base is None else base
        _known(data, ("sampling", "sac", "cam"), "configuration")
        parts: dict = {}
        if "sampling" in data:
            _known(data["sampling"], ("steps", "strength", "guidance", "eta"), "sampling")
            parts["sampling"] = dataclasses.replace(base.sampling, **data["sampling"])
        if "sac" in data:
            parts["sac"] = None if data["sac"] is None else _sac_from_json(data["sac"], base.sac or SAC())
        if "cam" in data:
            parts["cam"] = None if data["cam"] is None else _cam_from_json(data["cam"], base.cam or CAM())
        return dataclasses.replace(base, **parts)

    @classmethod
    def load(cls, path: str | Path, base: "AnalogistConfig | None" = None) -> "AnalogistConfig":
        """From a JSON file: a configuration, or a run's record with one under "config". Missing fields are taken from base."""
        data = read_json(path)
        with naming(path):
            return cls.from_json(data["config"] if isinstance(data.get("config"), dict) else data, base)


def read_json(path: str | Path) -> dict:
    """A JSON object from a file, with or without a byte-order mark. Raises ValueError that names the file."""
    try:
        data = json.loads(read_text(path))
    except OSError as error:
        raise ValueError(f"{shown(path)}: cannot be read ({error.strerror or error})") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{shown(path)}: not a JSON file ({error})") from error
    if not isinstance(data, dict):
        raise ValueError(f"{shown(path)}: expected a JSON object, found {type(data).__name__}")
    return data


def _known(data: object, keys: tuple[str, ...], what: str) -> None:
    if not isinstance(data, dict):
        raise ValueError(f"{what}: expected an object with {', '.join(keys)}, found {data!r}")
    unknown = sorted(set(data) - set(keys))
    if unknown:
        raise ValueError(f"{what}: unknown keys {unknown}; allowed are {', '.join(keys)}")


def _sac_to_json(sac: SAC) -> dict:
    return {
        "placement": sac.placement.to_json(),
        "scale": list(sac.scale) if isinstance(sac.scale, tuple) else sac.scale,
        "mirror": sac.mirror,
        "stage": sac.stage,
        "clone": None if sac.clone is None else [list(block) for block in sac.clone],
        "blend": sac.blend,
        "align": sac.align,
        "scaled": [list(block) for block in sac.factors],
        "others": sac.others,
    }


def _sac_from_json(data: dict, base: SAC) -> SAC:
    _known(data, ("placement", "scale", "mirror", "stage", "clone", "blend", "align", "scaled", "others"), "sac")
    values = dict(data)
    if "placement" in values:
        values["placement"] = Placement.from_json(values["placement"])
    if isinstance(values.get("scale"), list):
        values["scale"] = tuple(values["scale"])
    return dataclasses.replace(base, **values)


def _cam_from_json(data: dict, base: CAM) -> CAM:
    _known(data, ("placement", "silence"), "cam")
    values = dict(data)
    if "placement" in values:
        values["placement"] = Placement.from_json(values["placement"])
    return dataclasses.replace(base, **values)


def paper(*, scale: float = 1.3) -> AnalogistConfig:
    """As the paper writes it: SAC in one direction, M_s(A', B') := s M_s(A, B). Source: Gu et al. 2024, Sec. 4."""
    return AnalogistConfig(sac=SAC(scale=scale, mirror=False))


# task: (strength, guidance, what it is for). Source: the authors' evaluation script.
TASKS = {
    "colorization": (0.98, 15.0, "grey picture to colour"),
    "deblur": (0.7, 15.0, "blurred picture to sharp"),
    "denoise": (0.7, 15.0, "noisy picture to clean"),
    "enhancement": (0.98, 15.0, "dark picture to well lit"),
    "image_editing": (0.98, 15.0, "an edit shown by the example"),
    "image_translation": (0.98, 15.0, "the same thing as another kind of picture"),
    "style_transfer": (0.98, 15.0, "another style"),
    "ubcfashion": (0.98, 15.0, "skeleton to picture"),
    "scannet": (0.98, 15.0, "mask to picture"),
    "inpainting": (0.98, 7.5, "picture with a hole to the whole picture"),
}


def published_code(task: str | None = None) -> AnalogistConfig:
    """The authors' code's settings. task: a folder name of the published data, for that task's evaluation settings."""
    if task is None:
        return AnalogistConfig()
    if task not in TASKS:
        raise ValueError(f"task {task!r}: allowed are {', '.join(TASKS)}")
    strength, guidance, _ = TASKS[task]
    return AnalogistConfig(sampling=SamplingConfig(strength=strength, guidance=guidance))
