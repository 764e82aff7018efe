"""Training state on disk: one safetensors file, replaced as a whole, and a log of JSON lines beside it."""

import json
import os
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor


class TrainingError(ValueError):
    """A training cannot start or continue; the message says what to do."""


def prepare_folder(folder: Path) -> None:
    """Creates the folder. Raises TrainingError if it cannot be written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".writable-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise TrainingError(f"training folder {folder}: cannot be written to ({error.strerror}); give another folder with --out") from None


def replace_file(path: Path, write) -> None:
    """Calls write(temporary path), then renames the result to `path`, so that `path` is never half-written."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)  # safetensors makes its files readable by their owner only
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def save_state(path: Path, groups: dict[str, dict[str, Tensor]], step: int, identity: dict) -> None:
    """Writes tensors in named groups, the number of finished steps and the training's identity (the settings that must agree)."""
    tensors = {f"{group}/{name}": t.detach().cpu().contiguous() for group, named in groups.items() for name, t in named.items()}
    metadata = {"step": str(step), "identity": json.dumps(identity, sort_keys=True)}
    replace_file(path, lambda temporary: save_file(tensors, temporary, metadata=metadata))


def _differences(old: dict, new: dict, prefix: str = "") -> list[str]:
    found = []
    for key in sorted(set(old) | set(new)):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found += _differences(a, b, f"{prefix}{key}.")
        elif a != b:
            found.append(f"{prefix}{key} {a} in the file, {b} now")
    return found


def load_state(path: Path, identity: dict, *, keys: tuple[str, ...] | None = None) -> tuple[dict[str, dict[str, Tensor]], int]:
    """Reads groups of tensors and the number of finished steps.

    keys: which parts of the identity must agree; None: all. Raises TrainingError for a file with other settings.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError) as error:
        raise TrainingError(f"training state {path}: cannot be read ({error}); delete it to start again") from None
    if "identity" not in metadata:
        raise TrainingError(f"{path} is not a training state of the lab; give another folder with --out")
    found, wanted = json.loads(metadata["identity"]), json.loads(json.dumps(identity))
    if keys is not None:
        found, wanted = ({key: each.get(key) for key in keys} for each in (found, wanted))
    differences = _differences(found, wanted)
    if differences:
        raise TrainingError(
            f"training state {path} has other settings: {'; '.join(differences[:4])}"
            f"{' ...' if len(differences) > 4 else ''}; use that recipe, or another folder with --out"
        )
    groups: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        group, rest = name.split("/", 1)
        groups.setdefault(group, {})[rest] = tensor
    return groups, int(metadata["step"])


def append_log(path: Path, entry: dict) -> None:
    """Appends one JSON line."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")


def pick_device(name: str | None) -> torch.device:
    """The device to train on; None: cuda if available, else cpu. Raises TrainingError for cuda without CUDA."""
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise TrainingError(f"no device {name!r}; give cpu or cuda") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise TrainingError(f"--device {name}: this machine (or this torch) has no CUDA; use --device cpu")
    return device
