"""Chooses the files of a repository that are needed, and checks that the files in the cache are the published ones."""

import hashlib
import json
import re
from pathlib import Path

from tqdm import tqdm

from analogist.disk.cache_folder import cache_folder
from analogist.disk.writing import OutputError, atomic_write, output_folder
from analogist.weights.errors import WeightsError
from analogist.weights.files import FOLDERS, STEMS
from analogist.weights.known import HubSource

# Fetched from a diffusers folder besides the weights. Nothing else is fetched (no safety checker, pickles or other formats).
SMALL = (
    "model_index.json", "analogist.json", "unet/config.json", "vae/config.json", "text_encoder/config.json",
    "text_encoder_2/config.json", "scheduler/scheduler_config.json", "tokenizer/vocab.json", "tokenizer/merges.txt",
    "tokenizer/special_tokens_map.json",
    "tokenizer/tokenizer_config.json", "tokenizer/tokenizer.json", "tokenizer_2/vocab.json", "tokenizer_2/merges.txt",
    "tokenizer_2/special_tokens_map.json", "tokenizer_2/tokenizer_config.json", "tokenizer_2/tokenizer.json",
)  # fmt: skip
CHUNK = 8 * 2**20


class HubError(WeightsError):
    """A checkpoint cannot be fetched from the hub. The message names the variable or command that helps.

    unreachable: True if the network or server failed, False if the repository or its content is the problem.
    """

    def __init__(self, message: str, *, unreachable: bool = False) -> None:
        super().__init__(message)
        self.unreachable = unreachable


def choose_files(place: HubSource, listing: list[str], dtype: str | None) -> tuple[list[str], str | None]:
    """The files to fetch from a repository's listing, and which of them is the checkpoint (None: they form a folder).

    dtype: prefer "fp16" or "fp32". Raises HubError if there is no complete checkpoint in safetensors.
    """
    if place.file is not None:
        if place.file not in listing:
            raise HubError(f"{place}: no such file in the repository; it has {_some(listing)}")
        return [place.file], place.file
    singles = [name for name in listing if "/" not in name and name.endswith(".safetensors")]
    weights = {part: _weights(listing, FOLDERS[part], STEMS[part], dtype) for part in FOLDERS}
    if not any(name.startswith("text_encoder_2/") for name in listing):
        del weights["text_2"]  # only SDXL has it
    if all(weights.values()):
        small = [name for name in SMALL if name in listing]
        return [*small, *(name for names in weights.values() for name in names)], None
    half = [name for name in singles if "fp16" in name.lower()]
    preferred = half if dtype == "fp16" and half else [name for name in singles if name not in half] or half
    if len(preferred) == 1:
        return preferred, preferred[0]
    if len(preferred) > 1:
        raise HubError(
            f"{place}: several checkpoints in one repository ({_some(preferred)}); choose one, such as {place.repo}:{preferred[0]}"
        )
    missing = [FOLDERS[part] + "/" for part, names in weights.items() if not names]
    pickles = any(name.endswith((".bin", ".ckpt", ".pt")) for name in listing)
    why = "its weights are pickle files, which are never opened" if pickles else f"no safetensors weights in {', '.join(missing)}"
    raise HubError(f"{place}: {why}; choose another repository (`analogist weights list` names some)")


def _weights(listing: list[str], folder: str, stem: str, dtype: str | None) -> list[str]:
    """One part's weight files: in the preferred precision, else in the other; a single file, else shards with their index."""

    def matching(pattern: str) -> list[str]:
        return [name for name in listing if re.fullmatch(rf"{folder}/{stem}{pattern}", name)]

    full = matching(r"\.safetensors"), matching(r"\.safetensors\.index\.json"), matching(r"-\d+-of-\d+\.safetensors")
    half = (  # both spellings: diffusers before 0.28 put the variant elsewhere
        matching(r"\.fp16\.safetensors"),
        matching(r"\.safetensors\.index\.fp16\.json|\.safetensors\.fp16\.index\.json|\.fp16\.safetensors\.index\.json"),
        matching(r"\.fp16-\d+-of-\d+\.safetensors|-\d+-of-\d+\.fp16\.safetensors"),
    )
    for single, index, shards in (half, full) if dtype == "fp16" else (full, half):
        if single:
            return single
        if index and shards:
            return [index[0], *shards]
    return []


def verified(
    path: Path,
    place: HubSource,
    *,
    files: dict[str, Path] | None = None,
    published: dict[str, str] | None = None,
    progress: bool = True,
) -> Path:
    """Returns the path after checking the hash of every weight file. A checked file is remembered and not checked again.

    files: name -> file; None: all safetensors files below the path. published: name -> SHA-256 from the hub; without it, a large
    file's name in the cache is its hash. On a mismatch the file is removed from the cache and HubError is raised.
    """
    if files is None:
        files = (
            {path.name: path}
            if path.is_file()
            else {str(file.relative_to(path)): file for file in sorted(path.rglob("*.safetensors"))}
        )
    for name, file in files.items():
        blob = file.resolve()
        kept_as = blob.name if re.fullmatch(r"[0-9a-f]{64}", blob.name) else None
        expected = place.sha256.get(name) or (published or {}).get(name) or kept_as
        if expected is None or _remembered(blob, expected):
            continue
        actual = sha256(blob, label=name, progress=progress)
        if actual != expected:
            file.unlink(missing_ok=True)
            blob.unlink(missing_ok=True)
            raise HubError(
                f"{place}: {name} is not the published file (SHA-256 {actual[:12]}.. instead of {expected[:12]}..); it was removed "
                "from the cache: fetch it again, or set HF_ENDPOINT to another mirror"
            )
        _remember(blob, expected)
    return path


def sha256(path: Path, *, label: str | None = None, progress: bool = False) -> str:
    """A file's SHA-256, 64 hexadecimal digits. label: what the progress bar calls it."""
    key = hashlib.sha256()
    with path.open("rb") as file, tqdm(
        total=path.stat().st_size, unit="B", unit_scale=True, desc=f"checking {label or path.name}", disable=not progress, leave=False
    ) as bar:  # fmt: skip
        while chunk := file.read(CHUNK):
            key.update(chunk)
            bar.update(len(chunk))
    return key.hexdigest()


def _identity(blob: Path) -> list[int]:
    status = blob.stat()
    return [status.st_ino, status.st_size, status.st_mtime_ns]


def _remembered(blob: Path, expected: str) -> bool:
    try:
        return json.loads((cache_folder() / "verified" / f"{expected}.json").read_text()) == _identity(blob)
    except (OSError, ValueError):
        return False


def _remember(blob: Path, expected: str) -> None:
    try:
        atomic_write(output_folder(cache_folder() / "verified") / f"{expected}.json", json.dumps(_identity(blob)).encode())
    except OutputError:
        return  # then it is checked again next time, which only costs seconds


def _some(names: list[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "") if names else "no file"
