"""Which part of a model each tensor of a file belongs to, decided by the patterns in its name.

A part is found by the names inside it. Anything before them is its prefix, whether we know it or not (`model.diffusion_model.`,
`state_dict.first_stage_model.`, none at all ...). Place in the flow: between header.py and model_families.py.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from . import keymaps
from .errors import WeightsError
from .header import TensorInfo

# kind, layout, a pattern that matches only names inside such a part (group 1 is the prefix), the first words of its names.
SIGNS: tuple[tuple[str, str, str, frozenset[str]], ...] = (
    (
        "unet",
        "ldm",
        r"^(.*?)(?:input_blocks|middle_block|output_blocks)\.\d+\.",
        frozenset({"time_embed", "input_blocks", "middle_block", "output_blocks", "out", "label_emb"}),
    ),
    (
        "unet",
        "diffusers",
        r"^((?:(?!encoder\.|decoder\.).)*?)(?:(?:down|up)_blocks\.\d+|mid_block)\.(?:resnets|attentions|downsamplers|upsamplers)\.\d",
        frozenset({"conv_in", "conv_norm_out", "conv_out", "time_embedding", "add_embedding", "down_blocks", "mid_block", "up_blocks"}),
    ),
    (
        "vae",
        "ldm",
        r"^(.*?)(?:encoder\.down|decoder\.up)\.\d+\.",
        frozenset({"encoder", "decoder", "quant_conv", "post_quant_conv", "loss"}),
    ),
    (
        "vae",
        "diffusers",
        r"^(.*?)(?:encoder\.down_blocks|decoder\.up_blocks)\.\d+\.",
        frozenset({"encoder", "decoder", "quant_conv", "post_quant_conv"}),
    ),
    (
        "text",
        "clip",
        r"^((?:(?!vision_model\.).)*?)encoder\.layers\.\d+\.(?:self_attn|mlp|layer_norm\d)\.",
        frozenset({"embeddings", "encoder", "final_layer_norm"}),
    ),
    (
        "text",
        "openclip",
        r"^((?:(?!visual\.).)*?)transformer\.resblocks\.\d+\.",
        frozenset({"transformer", "positional_embedding", "token_embedding", "ln_final", "text_projection", "logit_scale"}),
    ),
)
SCHEDULE = frozenset(
    "betas alphas_cumprod alphas_cumprod_prev sqrt_alphas_cumprod sqrt_one_minus_alphas_cumprod log_one_minus_alphas_cumprod "
    "sqrt_recip_alphas_cumprod sqrt_recipm1_alphas_cumprod posterior_variance posterior_log_variance_clipped posterior_mean_coef1 "
    "posterior_mean_coef2 lvlb_weights logvar scale_factor sigmas log_sigmas alphas alphas_prev ddim_sigmas ddim_alphas ddim_alphas_prev "
    "ddim_sqrt_one_minus_alphas".split()
)
# What trainers, merges and interfaces leave in a checkpoint: a pattern for the name without its prefixes -> what it is, in words. All of it
# is ignored with a note, and nothing else is ignored.
MARKS = "marks of 8-bit weights, which loading does not need"
WRAPPERS = r"^(?:(?:state_dict|module)\.)*"
LEFTOVERS: tuple[tuple[str, str], ...] = (
    (r"(?:global_steps?|epochs?|steps?|iterations?|train_steps?|optimization_step)$", "counters of a trainer"),
    (
        r"(?:optimizers?|optimizer_states?|lr_schedulers?|schedulers?|grad_scaler|scaler|amp|callbacks|loops|hyper_parameters|hparams"
        r"|rng_states?)(?:\.|_\d+\.|$)",
        "states of a trainer (optimizer, learning rate, loops)",
    ),
    (r"(?:.*\.)?embedding_manager\.", "tensors of textual inversion (their words have no special meaning in prompts)"),
    (r"safety_checker\.", "tensors of a safety checker"),
    (r"loss\.", "tensors of a training loss"),
    (r"(?:cond_stage_model|conditioner)\.(?:.*\.)?(?:visual|vision_model|visual_projection)\.", "tensors of CLIP's image encoder"),
    (r"(?:.*\.)?(?:scaled_fp8|comfy_quant|scale_input|input_scale)$", MARKS),
)
# Empty tensors by which merges say what their UNet predicts, as ComfyUI writes and reads them: name -> a setting of the scheduler's config.
PREDICTION_MARKS: dict[str, tuple[str, object]] = {"v_pred": ("prediction_type", "v_prediction"), "ztsnr": ("rescale_betas_zero_snr", True)}
EDM_MARKS = re.compile(WRAPPERS + r"(?:edm_mean|edm_std|edm_vpred\.)")  # of UNets for the noise levels of Karras et al. 2022 (EDM)
SCALES = (".scale_weight", ".weight_scale")  # of 8-bit weights, as ComfyUI writes them: weight = stored number * scale
EMA = re.compile(r"(?:^|\.)model_ema\.")
EMA_SCALAR = re.compile(r"(?:^|\.)model_ema\.(?:decay|num_updates)$")
# Tensors of the text encoder that may have another prefix.
BESIDE_TEXT = re.compile(r"(?:^|\.)(?:text_projection(?:\.weight)?|logit_scale|position_ids|attn_mask)$")
CONTROL = re.compile(r"^(?:input_hint_block|zero_convs|controlnet_)")
LORA = re.compile(r"(?:^lora_|[._]lora[._](?:up|down|A|B|mid)\b|\.hada_w|\.lokr_w|\.alpha$|\.dora_scale$)")


@dataclass(frozen=True)
class Group:
    """The tensors of one part in one file or set of shards. tensors: name without the prefix -> tensor."""

    kind: str
    layout: str
    prefix: str
    tensors: dict[str, TensorInfo] = field(repr=False)


@dataclass(frozen=True)
class Split:
    """All tensors of a file by part. ema: moving averages, full name -> tensor; ignored: known and not needed; other: the rest;
    marks: of PREDICTION_MARKS, the full names by their own.
    """

    groups: list[Group]
    ema: dict[str, TensorInfo] = field(repr=False)
    ignored: dict[str, list[str]] = field(repr=False)
    other: list[str] = field(repr=False)
    marks: dict[str, str] = field(default_factory=dict[str, str])

    def of(self, kind: str) -> list[Group]:
        """The groups of one kind."""
        return [group for group in self.groups if group.kind == kind]


@dataclass(frozen=True)
class Piece:
    """Where the numbers of one of our parameters are stored. part: (index, count) of equal row blocks, or None for the whole tensor; scale:
    the tensor that they are multiplied by, one number or one per row.
    """

    info: TensorInfo
    part: tuple[int, int] | None = None
    scale: TensorInfo | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape on disk. If the rows do not divide evenly, the shape of the whole tensor, which then fits no parameter."""
        shape = self.info.shape
        if self.part and shape and shape[0] % self.part[1] == 0:
            return shape[0] // self.part[1], *shape[1:]
        return shape


@dataclass(frozen=True)
class Mapped:
    """A group in our names. twice: our names that two tensors map to, and those tensors; unused: names left out on purpose."""

    pieces: dict[str, Piece] = field(repr=False)
    twice: dict[str, list[TensorInfo]]
    unused: list[str] = field(repr=False)


def split(tensors: Mapping[str, TensorInfo]) -> Split:
    """The parts that a file holds. Never raises: unknown tensors are in `other`."""
    ema = {name: info for name, info in tensors.items() if EMA.search(name)}
    ignored = {"EMA scalars": [name for name in ema if EMA_SCALAR.search(name)]}
    ema = {name: info for name, info in ema.items() if not EMA_SCALAR.search(name)}
    schedule = [name for name in tensors if name.rsplit(".", 1)[-1] in SCHEDULE and name not in ema]
    ignored["schedule buffers"] = schedule
    marks = {bare: name for name in tensors if (bare := re.sub(WRAPPERS, "", name)) in PREDICTION_MARKS}
    taken = set(ema) | set(schedule) | set(ignored["EMA scalars"]) | set(marks.values())
    for name in tensors:
        why = None if name in taken else leftover(name)
        if why is not None:
            ignored.setdefault(why, []).append(name)
            taken.add(name)
    names = [name for name in tensors if name not in taken]
    if is_lora(names):
        return Split([], ema, ignored, names, marks)

    found = []
    for kind, layout, pattern, words in SIGNS:
        prefixes = Counter(match[1] for match in (re.match(pattern, name) for name in names) if match)
        # A single name that happens to match a part's pattern does not make a part.
        most = max(prefixes.values(), default=0)
        found += [(kind, layout, prefix, words, {}) for prefix, count in prefixes.items() if 20 * count >= most]
    found.sort(key=lambda group: -len(group[2]))
    other = []
    for name in names:
        home = _home(name, found)
        if home is None:
            other.append(name)
        else:
            home[4][name[len(home[2]) :]] = tensors[name]
    if any(group[0] == "text" for group in found):
        beside = [name for name in other if BESIDE_TEXT.search(name)]
        ignored["tensors that no text encoder here uses"] = beside
        other = [name for name in other if name not in set(beside)]
    groups = [Group(kind, layout, prefix, group) for kind, layout, prefix, _, group in found]
    control = [group for group in groups if group.kind == "unet" and any(CONTROL.search(name) for name in group.tensors)]
    ignored["tensors of a ControlNet"] = [info.name for group in control for info in group.tensors.values()]
    groups = [group for group in groups if group not in control]
    return Split(groups, ema, {why: left for why, left in ignored.items() if left}, other, marks)


def leftover(name: str) -> str | None:
    """Which of LEFTOVERS a name is, in words, or None."""
    return next((why for pattern, why in LEFTOVERS if re.match(WRAPPERS + pattern, name)), None)


def blamed(split: Split) -> dict[str, list[str]]:
    """The names of `other` by the kind of part that shares their prefix ("" for none): cond_stage_model.x is the text encoder's."""
    found: dict[str, list[str]] = {}
    for name in split.other:
        shared = [(_shared(name, group.prefix), group.kind) for group in split.groups]
        most, kind = max(shared, default=(0, ""))
        found.setdefault(kind if most else "", []).append(name)
    return found


def _shared(name: str, prefix: str) -> int:
    """How many leading words, without wrappers, a name and a prefix have in common."""
    words = [re.sub(WRAPPERS, "", text).split(".") for text in (name, prefix)]
    same = [one == other for one, other in zip(words[0], words[1][:-1], strict=False)]
    return (*same, False).index(False)


def scales_of(tensors: Mapping[str, TensorInfo]) -> dict[str, str]:
    """Weight name -> the name of its scale, if that is one number or one per row; any other scale stays unknown."""
    found = {}
    for name, info in tensors.items():
        ending = next((ending for ending in SCALES if name.endswith(ending)), None)
        weight = None if ending is None else tensors.get(name.removesuffix(ending) + ".weight")
        if ending is None or weight is None or not weight.shape or info.dtype not in ("F64", "F32", "F16", "BF16"):
            continue
        if info.count == 1 or (info.count == weight.shape[0] and info.shape[:1] == weight.shape[:1]):
            found[name.removesuffix(ending) + ".weight"] = name
    return found


def _home(name: str, found: list[tuple]) -> tuple | None:
    """The group with the longest prefix of this name; among groups with the same prefix, the one that knows the first word after it."""
    fitting = [group for group in found if name.startswith(group[2])]
    if not fitting:
        return None
    near = [group for group in fitting if len(group[2]) == len(fitting[0][2])]
    word = name[len(near[0][2]) :].split(".", 1)[0]
    return next((group for group in near if word in group[3]), near[0])


def is_lora(names: Iterable[str]) -> bool:
    """Whether most names are those of LoRA factors."""
    marks = [bool(LORA.search(name)) for name in names]
    return bool(marks) and 2 * sum(marks) > len(marks)


def to_ours(group: Group, layers: int | None = None, *, projection: bool = False) -> Mapped:
    """A group in our names. layers: how many layers of a text encoder are kept (None: all). projection: keep its text_projection too."""
    scales = scales_of(group.tensors)
    names = [name for name in group.tensors if name not in scales.values()]
    match group.kind, group.layout:
        case "unet", "ldm":
            targets = keymaps.unet_ldm(names)
        case "unet", _:
            targets = keymaps.unet_diffusers(names)
        case "vae", "ldm":
            targets = keymaps.vae_ldm(names)
        case "vae", _:
            targets = keymaps.vae_diffusers(names)
        case "text", "openclip":
            targets = keymaps.text_openclip(names, layers)
        case _:
            targets = keymaps.text_clip(names, layers, projection)
    pieces: dict[str, Piece] = {}
    claims: dict[str, list[TensorInfo]] = {}
    for name, goals in targets.items():
        for goal in goals:
            claims.setdefault(goal.name, []).append(group.tensors[name])
            scale = group.tensors[scales[name]] if name in scales else None
            pieces[goal.name] = Piece(group.tensors[name], goal.part, scale)
    twice = {name: theirs for name, theirs in claims.items() if len(theirs) > 1}
    return Mapped(pieces, twice, [name for name, goals in targets.items() if not goals])


def averaged(group: Group, ema: Mapping[str, TensorInfo]) -> dict[str, TensorInfo]:
    """The UNet's tensors replaced by their moving averages, under the names of the group.

    Raises WeightsError if there are none, or if a tensor has none.
    """
    if not ema:
        raise WeightsError("ema=True, but this checkpoint holds no moving averages (model_ema.*); load it without ema")
    by_path = {EMA.split(name)[-1]: info for name, info in ema.items()}
    result, missing = {}, []
    for name in group.tensors:
        info = by_path.get(keymaps.ema_shadow(name)) or by_path.get("diffusion_model." + name)
        if info is None:
            missing.append(name)
        else:
            result[name] = info
    if missing:
        raise WeightsError(
            f"ema=True, but {len(missing)} of {len(group.tensors)} UNet tensors have no moving average (the first: "
            f"{', '.join(missing[:3])}); load it without ema"
        )
    return result
