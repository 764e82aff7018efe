"""Maps on disk: one safetensors file for all saved maps, or one file per spilled map, which grows during the run."""

import json
import os
import tempfile
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from analogist.attention.capture.maps import AttentionMap, Maps
from analogist.attention.select.word_columns import ColumnsOf, ListedWords, TextOnFile
from analogist.disk.foreign import naming
from analogist.models.placement import Site

FORMAT = "analogist maps 1"
INDEX = "#index"  # appended to the name of a map for the keys of its top-k


def describe(m: AttentionMap) -> dict:
    """Everything about a map except its values, JSON-ready."""
    text = TextOnFile.of(m.words.run) if isinstance(m.words, ColumnsOf) else None
    return {
        "site": [m.site.name, m.site.kind, m.site.layer, m.site.stride, m.site.heads],
        "point": m.point,
        "axes": m.axes,
        "hw": m.hw,
        "size": m.size,
        "rows": m.rows,
        "coords": m.coords,
        "times": {str(step): t for step, t in m.times.items()},
        "query": None if m.query is None else m.query.tolist(),
        "key": None if m.key is None else m.key.tolist(),
        "columns": m.columns,
        "reduced": m.reduced,
        "prompts": m.prompts,
        "tokens": m.tokens,
        "text": None if text is None else text.to_json(),
        "words": _listed(m) if text is None else {},
    }


def _listed(m: AttentionMap) -> dict[str, dict[str, list[int]]]:
    """The columns of the single words of each branch's prompt, for a run whose text is not known token by token."""
    words = {}
    for branch, prompt in m.prompts.items():
        found = {}
        for word in dict.fromkeys(prompt.lower().replace(",", " ").split()) if m.words is not None else ():
            try:
                found[word] = list(m.columns_of(word, branch))
            except ValueError:  # the word was cut off at the end of the prompt
                continue
        words[branch] = found
    return words


def _text(data: dict, shape: torch.Size) -> TextOnFile:
    """The text of a map's run. Files written before they held it ("text") list single words. shape: of the map's values."""
    if data.get("text") is not None:
        return TextOnFile.from_json(data["text"])
    whole = "key" in data["axes"] and data["columns"] is None
    prompts: dict[str, str] = data["prompts"]
    known = {prompts[branch]: tokens for branch, tokens in data["tokens"].items()}
    words = ListedWords({prompt: data["words"].get(branch, {}) for branch, prompt in prompts.items()}, known)
    return TextOnFile(shape[data["axes"].index("key")] if whole else None, tuple(prompts), tuple(prompts.values()) or None, words)


def restore(name: str, tensor: Tensor, index: Tensor | None, data: dict) -> AttentionMap:
    """A map from its values and the output of `describe`."""
    return AttentionMap(
        name=name, site=Site(*data["site"]), point=data["point"], tensor=tensor, axes=tuple(data["axes"]), hw=tuple(data["hw"]),
        size=tuple(data["size"]), rows=data["rows"], coords={axis: tuple(values) for axis, values in data["coords"].items()},
        times={int(step): t for step, t in data["times"].items()},
        query=None if data["query"] is None else torch.tensor(data["query"], device="cpu"),
        key=None if data["key"] is None else torch.tensor(data["key"], device="cpu"),
        columns=None if data["columns"] is None else {branch: tuple(c) for branch, c in data["columns"].items()},
        index=index, reduced=tuple(data["reduced"]), prompts=data["prompts"],
        tokens={branch: tuple(tokens) for branch, tokens in data["tokens"].items()}, words=ColumnsOf(_text(data, tensor.shape)),
    )  # fmt: skip


def save_maps(maps: Maps, path: str | Path) -> None:
    """Writes all maps to a temporary file, which is then renamed. Raises ValueError if that fails."""
    path = Path(path)
    tensors = {}
    for name, m in maps.items():
        tensors[name] = m.tensor.contiguous()
        if m.index is not None:
            tensors[name + INDEX] = m.index.contiguous()
    about = {"format": FORMAT, "maps": json.dumps({name: describe(m) for name, m in maps.items()}), "lost": json.dumps(maps.lost)}
    part = None
    try:
        handle, part = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        os.close(handle)
        save_file(tensors, part, metadata=about)
        os.replace(part, path)
        part = None
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path}: the maps could not be saved ({error})") from error
    finally:
        if part is not None:
            Path(part).unlink(missing_ok=True)


def load_maps(path: str | Path) -> Maps:
    """Maps of a file, or of all map files in a folder. Raises ValueError for other files."""
    path = Path(path)
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    if not files:
        raise ValueError(f"{path}: no .safetensors file in this folder")
    tensors: dict[str, Tensor] = {}
    described: dict[str, dict] = {}
    lost: dict[str, str] = {}
    for file in files:
        try:
            with safe_open(file, framework="pt") as opened:
                about = opened.metadata() or {}
                if about.get("format") != FORMAT:
                    raise ValueError(f"{file}: not a file of captured maps")
                tensors.update({name: opened.get_tensor(name) for name in opened.keys()})  # noqa: SIM118
            with naming(file):
                described.update(json.loads(about["maps"]))
                lost.update(json.loads(about["lost"]))
        except (OSError, SafetensorError, KeyError, json.JSONDecodeError) as error:
            raise ValueError(f"{file}: cannot be read as captured maps ({error})") from error
    with naming(path):
        maps = {name: restore(name, tensors[name], tensors.get(name + INDEX), data) for name, data in described.items()}
        return Maps(maps, lost)
