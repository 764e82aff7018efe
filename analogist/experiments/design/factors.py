"""Factors of a study: what each one changes in the settings, and which levels it allows."""

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from analogist.config import AnalogistConfig
from analogist.experiments.design import levels
from analogist.experiments.design.levels import StudyError
from analogist.experiments.design.own import OwnEdit
from analogist.experiments.design.space import Space
from analogist.models.control import CAM, SAC

REVERSED = (("B", "B'"), ("A", "A'"))  # the paper's reversed clone, M_s(B, B') := s M_s(A, A')
CLONES = {"published": SAC().clone, "reversed": REVERSED}
TEXTS = ("on", "off", "wrong")


@dataclass(frozen=True)
class Setting:
    """The settings of one run of a study, apart from its pictures and seed.

    text: "on" (the input's prompt), "off" (no prompt), "wrong" (the input's wrong prompt) or "= " followed by another prompt.
    edit: of attention, as in a call of the model; None: none.
    """

    config: AnalogistConfig
    text: str = "on"
    edit: OwnEdit | None = None


Change = Callable[[Setting, object, Space, str], Setting]


def _sampling(setting: Setting, level: object, space: Space, factor: str) -> Setting:
    return dataclasses.replace(setting, config=setting.config.replace(**{factor: level}))


def _layers(setting: Setting, level: object, space: Space, factor: str) -> Setting:
    config = setting.config
    changes: dict[str, SAC | CAM | None] = {}
    for name, kind in (("sac", SAC), ("cam", CAM)):
        if factor in ("layers", f"{name}.layers"):
            current = getattr(config, name)
            base = None if current is None else current.placement
            placement = levels.layers_level(level, base, space, factor)
            changes[name] = None if placement is None else dataclasses.replace(current or kind(), placement=placement)
    return dataclasses.replace(setting, config=config.replace(**changes))


def _on_off(setting: Setting, level: object, space: Space, factor: str) -> Setting:
    if level not in ("on", "off"):
        raise StudyError(f"{factor} {level!r}: allowed are on, off")
    current = getattr(setting.config, factor)
    default = getattr(space.config, factor) or {"sac": SAC, "cam": CAM}[factor]()
    value = None if level == "off" else current or default
    return dataclasses.replace(setting, config=setting.config.replace(**{factor: value}))


def _where(setting: Setting, level: object, space: Space, factor: str) -> Setting:
    """Steps, heads and branches of SAC, of CAM or (without a prefix) of both."""
    prefix, _, what = factor.rpartition(".")
    if what == "windows":
        what = "steps"
    if what == "steps":
        value: object = levels.steps_level(level, setting.config.sampling.executed, factor)
    elif what == "heads":
        value = levels.heads_level(level, factor)
    else:
        value = levels.branches_level(level, factor)
    config = setting.config
    for name in (prefix,) if prefix else ("sac", "cam"):
        current = getattr(config, name)
        if current is not None:
            placement = levels.restrict(current.placement, **{what: value})
            config = config.replace(**{name: dataclasses.replace(current, placement=placement)})
    return dataclasses.replace(setting, config=config)


def _sac_field(setting: Setting, level: object, space: Space, factor: str) -> Setting:
    sac, name = setting.config.sac, factor.partition(".")[2]
    if sac is None:
        return setting
    if name == "clone":
        level = CLONES.get(level, level) if isinstance(level, str) else level
        if isinstance(level, str) or not hasattr(level, "__iter__"):
            raise StudyError(f"{factor} {level!r}: allowed are {', '.join(CLONES)} or [[query, key] written, [query, key] read]")
        level = tuple(tuple(block) for block in cast(Iterable[Iterable[str]], level))
    if name in ("mirror", "align") and not isinstance(level, bool):
        raise StudyError(f"{factor} {level!r}: allowed are true and false")
    if name == "scale" and isinstance(level, list):
        level = tuple(level)
    return dataclasses.replace(setting, config=setting.config.replace(sac=dataclasses.replace(sac, **{name: level})))


def _scaled(setting: Setting, level: object, space: Space, factor: str) -> Setting:
    """Scaled blocks in place of cloning; "off" leaves SAC as it is."""
    sac = setting.config.sac
    if sac is None or level == "off":
        return setting
    entries = list(cast(Iterable[object], level)) if isinstance(level, list | tuple) else [level]
    numbers = all(isinstance(one, int | float) and not isinstance(one, bool) for one in entries) and 1 <= len(entries) <= 2
    if not numbers and not (entries and all(isinstance(one, list | tuple) for one in entries)):
        raise StudyError(
            f"{factor} {level!r}: allowed are off, the factor of B' -> A', [that, the factor of all others], or "
            "[[query, key, factor], ...]"
        )
    scaled, others = (entries[0], entries[1] if len(entries) == 2 else 1.0) if numbers else (entries, sac.others)
    changed = dataclasses.replace(sac, clone=None, scaled=cast(float, scaled), others=cast(float, others))
    return dataclasses.replace(setting, config=setting.config.replace(sac=changed))


def _silence(setting: Setting, level: object, space: Space, factor: str) -> Setting:
    cam = setting.config.cam
    if cam is None:
        return setting
    regions = tuple(part.strip() for part in level.split(",")) if isinstance(level, str) else tuple(cast(Iterable[str], level))
    return dataclasses.replace(setting, config=setting.config.replace(cam=dataclasses.replace(cam, silence=regions)))


def _text(setting: Setting, level: object, space: Space, factor: str) -> Setting:
    if isinstance(level, dict) and set(level) == {"prompt"} and isinstance(level["prompt"], str):
        return dataclasses.replace(setting, text=f"= {level['prompt']}")
    if level not in TEXTS:
        raise StudyError(f'text {level!r}: allowed are {", ".join(TEXTS)} or {{"prompt": "..."}}')
    return dataclasses.replace(setting, text=str(level))


def _edit(setting: Setting, level: object, space: Space, factor: str) -> Setting:
    one = one_edit(level)
    return dataclasses.replace(setting, edit=None if one.edits is None else one)


def one_edit(given: object, folder: Path | None = None) -> OwnEdit:
    """As `edit_levels`, of one run. Raises StudyError where there is more than one."""
    found = edit_levels(given, folder)
    if len(found) != 1:
        labels = ", ".join(one.label for one in found)
        raise StudyError(f'edit: {labels} in one run; give one, {{"mine": {{"up.1.*.self:probs": function}}}}')
    return found[0]


def edit_levels(given: object, folder: Path | None = None) -> list[OwnEdit]:
    """The levels of the factor `edit`: {label: None or {selector: function}}; ready-made levels stay. Raises StudyError otherwise.

    folder: where the module of "module:function" is looked for.
    """
    if isinstance(given, OwnEdit):
        return [given]
    if given is None:
        return [OwnEdit.of("none", None)]
    if isinstance(given, list | tuple) and given:
        return [level for one in given for level in edit_levels(one, folder)]
    if not isinstance(given, Mapping) or not given:
        raise StudyError('edit: give levels by name, {"none": None, "mine": {"up.1.*.self:probs": function}}')
    return [OwnEdit.of(str(name), one, folder) for name, one in given.items()]


# In the order in which they are applied: the number of executed steps first, then what is on, where, and how.
FACTORS: dict[str, tuple[Change, str]] = {
    "steps": (_sampling, "steps of the whole schedule"),
    "strength": (_sampling, "fraction of the schedule that is run"),
    "guidance": (_sampling, "classifier-free guidance weight"),
    "eta": (_sampling, "0 DDIM .. 1 DDPM"),
    "sac": (_on_off, "SAC on or off"),
    "cam": (_on_off, "CAM on or off"),
    "layers": (_layers, "layers of SAC and CAM together"),
    "sac.layers": (_layers, "layers of SAC"),
    "cam.layers": (_layers, "layers of CAM"),
    "windows": (_where, "executed steps at which SAC and CAM act"),
    "sac.steps": (_where, "executed steps at which SAC acts"),
    "cam.steps": (_where, "executed steps at which CAM acts"),
    "sac.heads": (_where, "heads of SAC"),
    "cam.heads": (_where, "heads of CAM"),
    "sac.branches": (_where, "branches of the guidance batch in which SAC acts"),
    "cam.branches": (_where, "branches of the guidance batch in which CAM acts"),
    "sac.scale": (_sac_field, "s in M(A',B') := s M(A,B)"),
    "sac.mirror": (_sac_field, "also M(B',A') := s M(B,A)"),
    "sac.stage": (_sac_field, "scores (before the softmax) or probs (after it)"),
    "sac.clone": (_sac_field, "which block is copied to which"),
    "sac.blend": (_sac_field, "0 (what stood there) to 1 (the clone alone)"),
    "sac.align": (_sac_field, "each cloned row keeps the maximum of the row it replaces"),
    "sac.scaled": (_scaled, "in place of cloning: factor of B' -> A', or [that, factor of all others]"),
    "sac.others": (_sac_field, "factor of all blocks that are neither cloned nor scaled"),
    "cam.silence": (_silence, "regions that are masked from the text"),
    "text": (_text, "the prompt on, off or wrong"),
    "edit": (_edit, "attention edits by name, as in edit= of a call"),
}
ORDER = list(FACTORS)


def check_factor(name: str) -> None:
    """Raises StudyError for an unknown factor, naming all known ones."""
    if name not in FACTORS:
        raise StudyError(f"factor {name!r}: allowed are {', '.join(FACTORS)} (seeds and inputs are crossed with every run)")


def expand(name: str, given: object, base: Setting, space: Space) -> list[object]:
    """The levels of a factor, with words such as "each" expanded. Raises StudyError if there are none, or one occurs twice."""
    check_factor(name)
    listed = edit_levels(given) if name == "edit" else list(given) if isinstance(given, list | tuple) else [given]
    out: list[object] = []
    for level in listed:
        if name.endswith("layers"):
            current = base.config.cam if name == "cam.layers" else base.config.sac
            out += levels.expand_layers(level, None if current is None else current.placement, space)
        elif name == "windows" or name.endswith(".steps"):
            out += levels.expand_steps(level)
        elif name.endswith(".heads") and level == "each":
            out += list(range(max(layer.heads for layer in space.layers)))
        else:
            out.append(level)
    labels = [label(level) for level in out]
    if not out or len(set(labels)) < len(labels):
        twice = sorted({text for text in labels if labels.count(text) > 1})
        raise StudyError(
            f"factor {name}: " + (f"levels {', '.join(twice)} occur twice" if twice else "no level; give at least one")
        )
    return out


def label(level: object) -> str:
    """A level as one short text for tables and captions."""
    if isinstance(level, str):
        return level.strip()
    if isinstance(level, OwnEdit):
        return level.label
    if isinstance(level, dict) and set(level) == {"prompt"}:
        return f"= {level['prompt']}"
    if level == REVERSED or level == [list(block) for block in REVERSED]:
        return "reversed"
    return json.dumps(level, ensure_ascii=False)


def apply(levels_of: dict[str, object], base: Setting, space: Space) -> Setting:
    """The base with the levels of factors applied to it, in the fixed order of FACTORS."""
    setting = base
    for name in sorted(levels_of, key=ORDER.index):
        setting = FACTORS[name][0](setting, levels_of[name], space, name)
    return setting
