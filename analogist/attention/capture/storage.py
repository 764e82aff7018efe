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
from analogist.attention.select.word_columns import ColumnsOnFile
from analogist.disk.foreign import naming
from analogist.models.placement import Site

FORMAT = "analogist maps 1"
INDEX = "#index"  # appended to the name of a map for the keys of its top-k


def describe(m: AttentionMap) -> dict:
    """Everything about a map except its values, JSON-ready."""
    words = {}
    for branch, prompt in m.prompts.items():
        found = {}
        for word in dict.fromkeys(prompt.lower().replace(",", " ").split()) if m.words is not None else ():
            try:
                found[word] = list(m.columns_of(word, branch))
            except ValueError:  # the word was cut off at the end of the prompt
                continue
        words[branch] = found
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
        "words": words,
    }


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
        tokens={branch: tuple(tokens) for branch, tokens in data["tokens"].items()}, words=ColumnsOnFile(data["words"]),
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
