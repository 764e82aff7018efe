"""Names in LoRA files, as each training tool writes them -> modules of the networks.

Place in the flow: the first step of lora.merge_lora, on the names of a header; no tensor is read yet.
Sources: kohya's sd-scripts and LyCORIS (`lora_unet_`), diffusers (`unet.`, processors), PEFT (`lora_A.<adapter>`), ComfyUI's LoraSave
(`diffusion_model.`, `text_encoders.`), OneTrainer (`bundle_emb.`), SimpleTuner's LyCORIS (`lycoris_`).
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from .errors import WeightsError

SHOWN = 8
UNET, TEXT, TEXT_2 = "unet", "text", "text_2"
ENDINGS = (  # end of a tensor's name, after the module's -> which factor it is; group 1: the adapter's name in PEFT
    (r"\.lora_down(?:\.weight)?()", "down"),
    (r"\.lora_up(?:\.weight)?()", "up"),
    (r"\.lora_mid(?:\.weight)?()", "mid"),
    (r"\.lora_A(?:\.((?!bias$)[^.]+))??(?:\.weight)?", "down"),
    (r"\.lora_B(?:\.((?!bias$)[^.]+))??(?:\.weight)?", "up"),
    (r"[._]lora(?:_linear_layer)?\.down(?:\.weight)?()", "down"),
    (r"[._]lora(?:_linear_layer)?\.up(?:\.weight)?()", "up"),
    (r"(?:[._]lora(?:_linear_layer)?)?\.(?:lora_)?alpha()", "alpha"),
)
NETWORKS = (  # prefix before a module's name -> the networks it may be in
    (r"^lora_unet_", (UNET,)),
    (r"^lora_te1?_", (TEXT,)),
    (r"^lora_te2_", (TEXT_2,)),  # SDXL's second text encoder
    (r"^unet\.(?:base_model\.model\.)?", (UNET,)),
    (r"^text_encoder\.(?:base_model\.model\.)?", (TEXT,)),
    (r"^text_encoder_2\.(?:base_model\.model\.)?", (TEXT_2,)),
    (r"^(?:model\.)?diffusion_model\.", (UNET,)),
    (r"^(?:text_encoders\.)?clip_l\.(?:transformer\.)?", (TEXT,)),
    (r"^(?:text_encoders\.)?clip_[gh]\.(?:transformer\.)?", (TEXT_2, TEXT)),  # SDXL's second, or the only one of SD 2
    (r"^(?:base_model\.model\.|lycoris_)?(?=(?:text_model[._])?(?:encoder[._]layers|embeddings|final_layer_norm)[._])", (TEXT, TEXT_2)),
    (r"^base_model\.model\.", (UNET,)),
    (r"^lycoris_", (UNET,)),
    (r"", (UNET,)),
)
LYCORIS_MERGES = "LyCORIS's tools/merge.py merges it into a checkpoint, which can be loaded here"
DIFFUSERS_FUSES = "diffusers' fuse_lora() and save_pretrained() merge it into a folder, which can be loaded here"
PEFT_MERGES = "PEFT's merge_and_unload() merges it into the network, whose folder can be loaded here"
OTHER_KINDS = (  # part of a name -> the kind of file, and which tool converts it
    (r"\.hada_", "LoHa", LYCORIS_MERGES),
    (r"\.lokr_", "LoKr", LYCORIS_MERGES),
    (r"\.(?:glora|[ab][12]\.weight$)", "GLoRA", LYCORIS_MERGES),
    (r"\.b?oft_", "OFT", LYCORIS_MERGES),
    (r"\.dora_scale$", "DoRA", LYCORIS_MERGES),
    (r"\.lora_magnitude_vector", "DoRA", DIFFUSERS_FUSES),
    (r"\.(?:[wb]_norm|diff|diff_b)$", "whole-difference", LYCORIS_MERGES),
    (r"\.lora_embedding_[AB]", "embedding-LoRA", PEFT_MERGES),
    (r"\.lora_[AB](?:\.[^.]+)?\.bias$", "LoRA-with-biases", PEFT_MERGES),
    (r"\.modules_to_save\.", "LoRA-and-whole-modules", PEFT_MERGES),
    (r"\.ia3_l(?:\.|$)", "IA3", PEFT_MERGES),
    (r"^(?:unet|text_encoder):\d+:(?:up|down)$", "cloneofsimo-lora", "its lora_add merges it into a checkpoint, which can be loaded here"),
)
EMBEDDING = re.compile(r"^bundle_emb\.(.+?)\.(?:string_to_param|string_to_token|emb_params|clip_l|clip_g|[^.]+$)")
TRANSFORMER = re.compile(  # blocks of networks without convolutions
    r"(?:^|[._])(?:double_blocks|single_blocks|single_transformer_blocks|joint_blocks|transformer[._]transformer_blocks)[._]"
)


@dataclass
class Module:
    """One module's factors. theirs: the module as the file names it, without the network's prefix; networks: those it may be in."""

    theirs: str
    networks: tuple[str, ...]
    factors: dict[str, str] = field(default_factory=dict)  # factor -> tensor name


@dataclass(frozen=True)
class Names:
    """A file's modules. strange: names that no rule matches; embeddings: bundled textual inversions, word -> tensor names."""

    modules: list[Module]
    strange: list[str]
    embeddings: dict[str, list[str]]


def modules_of(path: Path, names: Iterable[str]) -> Names:
    """Sorts the names of a LoRA file.

    Raises WeightsError for files of another kind, and says which tool converts them; also for several PEFT adapters in one file.
    """
    names = list(names)
    _refuse_other_kinds(path, names)
    modules: dict[tuple[tuple[str, ...], str], Module] = {}
    strange: list[str] = []
    embeddings: dict[str, list[str]] = {}
    adapters: set[str] = set()
    for name in names:
        if bundled := EMBEDDING.match(name):
            embeddings.setdefault(bundled[1], []).append(name)
            continue
        found = next(((name[: match.start()], kind, match[1]) for end, kind in ENDINGS if (match := re.search(end + "$", name))), None)
        if found is None:
            strange.append(name)
            continue
        stem, factor, adapter = found
        if factor != "alpha" and adapter is not None and adapter != "":
            adapters.add(adapter)
        prefix, networks = next((match[0], kinds) for start, kinds in NETWORKS if (match := re.match(start, stem)))
        theirs = stem[len(prefix) :].replace(".processor.", ".")
        module = modules.setdefault((networks, theirs), Module(theirs, networks))
        if factor in module.factors and len(adapters) < 2:
            strange.append(name)
        module.factors[factor] = name
    if len(adapters) > 1:
        raise WeightsError(f"{path}: {len(adapters)} PEFT adapters in one file ({', '.join(sorted(adapters)[:SHOWN])}); save one alone")
    return Names(list(modules.values()), strange, embeddings)


def _refuse_other_kinds(path: Path, names: list[str]) -> None:
    for mark, kind, way_on in OTHER_KINDS:
        found = next((name for name in names if re.search(mark, name)), None)
        if found is not None:
            raise WeightsError(f"{path}: a {kind} file ({found[:160]}); only LoRA and LoCon can be merged. {way_on}")


def flat(name: str) -> str:
    """A module's name as kohya writes it, without its optional parts."""
    return re.sub(r"_to_out_0$", "_to_out", name.replace(".", "_").removeprefix("text_model_"))
