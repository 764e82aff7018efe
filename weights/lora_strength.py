"""The strength of each module of a LoRA: alpha / rank, or alpha / sqrt(rank) (rsLoRA), from the file and the config beside it.

The sources, in order of priority:
1. the module's own `.alpha` tensor (kohya, OneTrainer, LyCORIS; LyCORIS has already multiplied sqrt(rank) into it);
2. a PEFT config: `lora_adapter_metadata` in the header (diffusers), adapter_config.json beside the file (PEFT). These have the same
   priority as 1: if two of them disagree about a module, that is an error;
3. other header entries (`lora_alpha`, `network_alpha`, kohya's `ss_network_*`, a trainer's whole config as JSON). They describe the
   training and are rarely updated when a file is resized or merged, so they only decide if 1 and 2 say nothing.
If no source says anything, alpha is the rank, as in diffusers, and the report says so. Entries about strength that are not understood
are an error if they would have decided.
Sources: Hu et al. 2021 (LoRA), section 4.1; Kalajdzievski 2023 (rsLoRA), Eq. (4); PEFT's LoraConfig and its matching of patterns.
"""

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .configs import read_json
from .errors import WeightsError
from .lora_names import PEFT_MERGES, TEXT, TEXT_2, UNET

CONFIG = "adapter_config.json"
ADAPTER_FILE = re.compile(r"^adapter_model(?:[.-].*)?\.safetensors$")
PREFIXES = {UNET: ("unet", "diffusion_model"), TEXT: ("text_encoder",), TEXT_2: ("text_encoder_2",)}
NETWORK_NAMES = {UNET: "UNet", TEXT: "text encoder", TEXT_2: "second text encoder"}
WORDS = frozenset({"r", "lora_alpha", "alpha_pattern", "rank_pattern", "use_rslora"})  # keys of a PEFT config that determine the strength
PLAIN_ALPHA = ("lora_alpha", "network_alpha", "alpha")
PLAIN_RANK = ("r", "rank", "lora_rank", "lora_dim", "network_dim")
PLAIN_ROOT = ("use_rslora", "rslora", "rs_lora")
KOHYA = ("ss_network_alpha", "ss_network_dim", "ss_network_args")
SOUNDS_LIKE_STRENGTH = re.compile(r"alpha(?!.*mask)|rs_?lora|scaling|lora_scale", re.IGNORECASE)
BLOCKWISE = re.compile(r"block_(?:dims|alphas)")
# Settings of a PEFT config under which the change to the weights is not up @ down.
OTHER_FORMS = ("use_dora", "use_qalora", "use_bdlora", "alora_invocation_tokens", "arrow_config", "kasa_config", "layer_replication")
BASE_CHANGED = ("pissa", "olora", "corda", "loftq", "lora_ga")  # initialisations that also change the base weights
AGREE = 0.01  # relative; alphas are stored in as little as bfloat16


@dataclass(frozen=True)
class Asked:
    """A module whose strength is asked for. names: all its dotted names; alpha: the number in its own .alpha tensor, or None."""

    label: str
    network: str
    names: tuple[str, ...]
    rank: int
    kernel: int
    alpha: float | None


@dataclass(frozen=True)
class Peft:
    """What a PEFT config says about one network. alpha, rank: None if it says nothing."""

    where: str
    network: str
    alpha: float | None
    rank: float | None
    alpha_pattern: Mapping[str, float]
    rank_pattern: Mapping[str, float]
    root: bool

    def silent(self, asked: Asked) -> bool:
        """Whether it gives no alpha for the module and no other rule than alpha / rank."""
        return not self.root and _by_pattern(self.alpha_pattern, asked.names, self.alpha) is None

    def strength(self, asked: Asked) -> float:
        """alpha / rank, or alpha / sqrt(rank). Raises WeightsError if it gives no alpha, or a rank other than the factors'."""
        alpha = _by_pattern(self.alpha_pattern, asked.names, self.alpha)
        rank = _by_pattern(self.rank_pattern, asked.names, self.rank)
        if rank is not None and rank != asked.rank:
            raise WeightsError(f"{self.where} says rank {rank:g} for {asked.label}, but its factors have rank {asked.rank}")
        if alpha is None:
            raise WeightsError(f"{self.where} gives no lora_alpha for {asked.label}, so its strength is unknown; add it there")
        return alpha / (math.sqrt(asked.rank) if self.root else asked.rank)


@dataclass(frozen=True)
class Strengths:
    """What a file and the config beside it say about strength. config: the adapter_config.json that was read, if any."""

    pefts: tuple[Peft, ...]
    metadata: Mapping[str, str] = field(repr=False)
    config: Path | None
    notes: tuple[str, ...]

    def of(self, modules: Sequence[Asked]) -> tuple[list[float], list[str]]:
        """The strength of each module, and notes in words. Raises WeightsError if one is unclear, contradictory or not finite."""
        found = [self._one(asked) for asked in modules]
        bare = [asked for asked, strength in zip(modules, found, strict=True) if strength is None]
        notes = list(self.notes)
        for network in dict.fromkeys(asked.network for asked in bare):
            these = [asked for asked in bare if asked.network == network]
            others = sum(asked.network == network for asked in modules) - len(these)
            which = "in the file or beside it, so alpha is the rank and strength 1, as in diffusers"
            if others:
                first = f"{len(these)} modules (the first: {these[0].label})"
                which = f"for {first}, although others have one: alpha is taken as their rank, as in kohya's scripts"
            notes.append(f"{NETWORK_NAMES[network]}: no alpha {which}")
        if any(asked.alpha is not None for asked in modules):
            notes += self._stale(modules)
        return [1.0 if strength is None else strength for strength in found], notes

    def _one(self, asked: Asked) -> float | None:
        said = [("its .alpha tensor", asked.alpha / asked.rank)] if asked.alpha is not None else []
        pefts = [peft for peft in self.pefts if peft.network == asked.network]
        said += [(peft.where, peft.strength(asked)) for peft in pefts if not said or not peft.silent(asked)]
        if not said:
            said = [(where, read(asked)) for where, read in _comments(self.metadata)]
        if not said:
            unread = next((key for key in self.metadata if _unread(key)), None)
            if unread is not None:
                raise WeightsError(
                    f"its header says {unread} = {self.metadata[unread][:80]!r}, which is not understood, and nothing else says "
                    f"the strength of {asked.label}; give every module its .alpha tensor"
                )
            return None
        for where, strength in said:
            if not math.isfinite(strength):
                raise WeightsError(f"{where} makes the strength of {asked.label} {strength}")
            if _differ(strength, said[0][1]):
                raise WeightsError(
                    f"two strengths for {asked.label}: {said[0][0]} says {said[0][1]:g}, {where} says {strength:g}; remove the wrong one"
                )
        return said[0][1]

    def _stale(self, modules: Sequence[Asked]) -> list[str]:
        """A note if other header entries contradict the .alpha tensors, which have priority."""
        told = [(asked, asked.alpha / asked.rank) for asked in modules if asked.alpha is not None]
        for where, read in _comments(self.metadata):
            for asked, strength in told:
                try:
                    comment = read(asked)
                except WeightsError as error:
                    return [f"{error}; the .alpha tensors were used"]
                if _differ(comment, strength):
                    return [f"{where} says strength {comment:g} for {asked.label}, its .alpha tensor says {strength:g}, which was used"]
        return []


def _differ(one: float, other: float) -> bool:
    return abs(one - other) > AGREE * max(abs(one), abs(other))


def read_strengths(path: Path, metadata: Mapping[str, str], own_alphas: bool) -> Strengths:
    """Collects what the header's metadata and an adapter_config.json beside the file say. own_alphas: the file holds .alpha tensors.

    Raises WeightsError for metadata that is not JSON or has invalid values, and for configs under which more than up @ down is added.
    """
    pefts: list[Peft] = []
    for key, text in metadata.items():
        if key == "lora_adapter_metadata":
            pefts += _pefts(f"its header's {key}", _json(f"its header's {key}", text))
    config, notes = path.parent / CONFIG, []
    if not config.is_file():
        return Strengths(tuple(pefts), metadata, None, ())
    meant = bool(ADAPTER_FILE.match(path.name)) or sum(1 for _ in path.parent.glob("*.safetensors")) == 1
    if not meant and (own_alphas or pefts):
        return Strengths(tuple(pefts), metadata, None, (f"{CONFIG} beside it not read: the file states its strengths itself",))
    if not meant:
        notes.append(f"strengths taken from {CONFIG} beside it")
    found = _pefts(str(config), read_json(config))
    return Strengths((*pefts, *found), metadata, config if found else None, tuple(notes))


def _json(where: str, text: str) -> Mapping[str, object]:
    """A JSON object; empty for an empty text or null."""
    try:
        said = json.loads(text) if text.strip() else None
    except (ValueError, RecursionError):
        raise WeightsError(f"{where} is not JSON: {text[:80]!r}") from None
    if said is None:
        return {}
    if not isinstance(said, dict):
        raise WeightsError(f"{where} is {text[:80]!r}; expected a JSON object")
    return said


def _pefts(where: str, said: Mapping[str, object]) -> list[Peft]:
    """Splits a config by network: diffusers' with prefixes (`unet.lora_alpha`) or nested, or PEFT's own, which holds for all networks."""
    found = []
    for network, prefixes in PREFIXES.items():
        own = {key.removeprefix(f"{prefix}."): value for prefix in prefixes for key, value in said.items() if key.startswith(f"{prefix}.")}
        nested = next((value for value in map(said.get, prefixes) if isinstance(value, dict)), {})
        config = own or nested or said
        if config.get("peft_type") is not None or config.keys() & (WORDS | set(OTHER_FORMS)):
            found.append(_peft(where, network, config))
    return found


def _peft(where: str, network: str, config: Mapping[str, object]) -> Peft:
    kind = config.get("peft_type", "LORA")
    if str(kind).upper() not in ("LORA", "PEFTTYPE.LORA"):
        raise WeightsError(f"{where} says peft_type {str(kind)[:40]!r}; only LORA can be merged. {PEFT_MERGES}")
    for key in OTHER_FORMS:
        if config.get(key):
            raise WeightsError(f"{where} says {key} = {str(config[key])[:80]}; only plain LoRA can be merged. {PEFT_MERGES}")
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(BASE_CHANGED):
        raise WeightsError(
            f"{where} says init_lora_weights = {start[:40]!r}, which also changed the base weights; save it from PEFT with "
            "path_initial_model_for_weight_conversion, or merge it there with merge_and_unload()"
        )
    root = config.get("use_rslora")
    if root is not None and not isinstance(root, bool):
        raise WeightsError(f"{where} says use_rslora = {str(root)[:40]!r}; expected true or false")
    return Peft(
        where,
        network,
        _number(where, "lora_alpha", config.get("lora_alpha")),
        _number(where, "r", config.get("r")),
        _pattern(where, "alpha_pattern", config.get("alpha_pattern")),
        _pattern(where, "rank_pattern", config.get("rank_pattern")),
        bool(root),
    )


def _pattern(where: str, key: str, said: object) -> dict[str, float]:
    if said is None:
        return {}
    if not isinstance(said, dict):
        raise WeightsError(f"{where} says {key} = {str(said)[:80]!r}; expected an object of patterns and numbers")
    for pattern in said:
        try:
            re.compile(pattern)
        except (re.error, RecursionError, OverflowError):
            raise WeightsError(f"{where} has {pattern[:80]!r} in {key}, which is not a regular expression") from None
    return {pattern: _needed(where, f"{key} of {pattern[:80]!r}", value) for pattern, value in said.items()}


def _number(where: str, key: str, value: object) -> float | None:
    return None if value is None else _needed(where, key, value)


def _needed(where: str, key: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e30:
        raise WeightsError(f"{where} says {key} = {str(value)[:40]!r}; expected a finite number")
    return float(value)


def _by_pattern(patterns: Mapping[str, float], names: Sequence[str], otherwise: float | None) -> float | None:
    """The first pattern that matches the end of one of the module's names, as PEFT's get_pattern_key does it."""
    for pattern, value in patterns.items():
        if any(re.match(rf"(.*\.)?({pattern})$", name) for name in names):
            return value
    return otherwise


def _comments(metadata: Mapping[str, str]) -> list[tuple[str, Callable[[Asked], float]]]:
    """(where, function that reads the strength) for each entry of the header that gives an alpha."""
    found: list[tuple[str, Callable[[Asked], float]]] = []
    for key in PLAIN_ALPHA:
        if key in metadata:
            found.append((f"its header's {key}", lambda asked, key=key: _plain(metadata, key, PLAIN_RANK, PLAIN_ROOT, asked)))
    if any(key in metadata for key in ("ss_network_alpha", "ss_network_args")) and _kohya_says(metadata):
        found.append(("its header's ss_network_alpha", lambda asked: _kohya(metadata, asked)))
    for key, text in metadata.items():
        if key not in ("lora_adapter_metadata", *KOHYA) and text.lstrip().startswith("{") and '"lora_alpha"' in text:
            found.append((f"its header's {key}", lambda asked, key=key, text=text: _config_in_header(key, text, asked)))
    return found


def _config_in_header(key: str, text: str, asked: Asked) -> float:
    """Strength from a trainer's config that the header holds as JSON."""
    where = f"its header's {key}"
    peft = next((peft for peft in _pefts(where, _json(where, text)) if peft.network == asked.network), None)
    if peft is None:
        raise WeightsError(f"{where} holds a lora_alpha, but not in a known place; give {asked.label} its .alpha tensor")
    return peft.strength(asked)


def _kohya_says(metadata: Mapping[str, str]) -> bool:
    """Whether kohya's entries say anything about strength."""
    return "ss_network_alpha" in metadata or SOUNDS_LIKE_STRENGTH.search(metadata["ss_network_args"]) is not None


def _unread(key: str) -> bool:
    return key not in KOHYA and SOUNDS_LIKE_STRENGTH.search(key) is not None


def _plain(metadata: Mapping[str, str], key: str, ranks: Sequence[str], roots: Sequence[str], asked: Asked) -> float:
    """alpha / rank from plain entries; a rank among them must equal the factors' rank."""
    alpha = _text_number(metadata, key)
    for name in ranks:
        if name in metadata and _text_number(metadata, name) != asked.rank:
            raise WeightsError(f"its header says {name} = {metadata[name][:40]!r}, the factors of {asked.label} have rank {asked.rank}")
    root = any(_text_flag(metadata, name) for name in roots if name in metadata)
    return alpha / (math.sqrt(asked.rank) if root else asked.rank)


def _kohya(metadata: Mapping[str, str], asked: Asked) -> float:
    """Strength from kohya's entries: conv_dim and conv_alpha for convolutions larger than 1x1, else the network's (networks/lora.py)."""
    args = _json("its header's ss_network_args", metadata.get("ss_network_args", "") if metadata.get("ss_network_args") != "None" else "")
    blockwise = next((key for key in args if BLOCKWISE.search(key)), None)
    if blockwise is not None:
        raise WeightsError(f"its header's ss_network_args say {blockwise} (alphas per block); every module then needs its .alpha tensor")
    own = {key: str(args[key]) for key in ("conv_alpha", "conv_dim", "rs_lora") if args.get(key) is not None}
    own |= {key: value for key, value in metadata.items() if key in KOHYA}
    convolution = asked.kernel > 1 and ("conv_alpha" in own or "conv_dim" in own)
    alpha, rank = ("conv_alpha", "conv_dim") if convolution else ("ss_network_alpha", "ss_network_dim")
    if alpha not in own:
        raise WeightsError(f"its header gives no {alpha} for {asked.label}, which has no .alpha tensor either")
    return _plain(own, alpha, (rank,), ("rs_lora",), asked)


def _text_number(metadata: Mapping[str, str], key: str) -> float:
    try:
        value = float(metadata[key])
    except ValueError:
        value = math.nan
    if not abs(value) < 1e30:
        raise WeightsError(f"its header says {key} = {metadata[key][:40]!r}; expected a finite number")
    return value


def _text_flag(metadata: Mapping[str, str], key: str) -> bool:
    text = metadata[key].strip().lower()
    if text not in ("true", "false", "1", "0", "none", ""):
        raise WeightsError(f"its header says {key} = {metadata[key][:40]!r}; expected true or false")
    return text in ("true", "1")
