"""Finds checkpoints by name: a local file or folder, a known name, or a repository on the hub.

Downloads go through huggingface_hub, into the cache that other tools share. A file is used only after its hash was checked.
"""

import importlib.util
import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from tqdm import tqdm

from analogist.checkpoints.hub_files import HubError, choose_files, verified
from analogist.disk.writing import atomic_write, output_folder
from analogist.weights.embedded import EMBEDDED, embedded
from analogist.weights.errors import WeightsError
from analogist.weights.known import HubSource, known
from analogist.weights.load import open_checkpoint

COMMIT = re.compile(r"[0-9a-f]{40}")
HUB_ID = re.compile(r"^([\w.-]+/[\w.-]+?)(?:@([\w./-]+))?(?::([\w./ -]+))?$")
WEIGHTS = (".safetensors", ".ckpt", ".bin", ".pt", ".pth", ".gguf")


class HubWarning(UserWarning):
    """A warning about where a checkpoint came from; the run continues."""


def offline() -> bool:
    """Whether HF_HUB_OFFLINE (or TRANSFORMERS_OFFLINE) is set."""
    return _constants().HF_HUB_OFFLINE


def endpoint() -> str:
    """HF_ENDPOINT, else the hub's own address."""
    return _constants().ENDPOINT or "https://huggingface.co"  # an empty variable is none


def cache() -> Path:
    """The hub cache: HF_HUB_CACHE, else HUGGINGFACE_HUB_CACHE, else hub/ in HF_HOME, with ~ and variables in them, else the usual place."""
    return Path(_constants().HF_HUB_CACHE)


def _constants() -> ModuleType:
    """huggingface_hub's own constants as the environment says them now.

    The client reads its variables once, when it is imported; a copy of that module reads them anew, so that a notebook may set them at
    any time.
    """
    spec = importlib.util.find_spec("huggingface_hub.constants")
    assert spec is not None and spec.loader is not None, "huggingface_hub comes with transformers"
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except ValueError as error:
        given = ", ".join(f"{name}={os.environ[name]}" for name in sorted(os.environ) if name.startswith("HF_") and name != "HF_TOKEN")
        raise HubError(f"huggingface_hub cannot read one of its variables in the environment ({given}): {error}") from None
    return module


def is_local(source: str | Path) -> bool:
    """Whether `source` is a path: it exists, or it does not look like the name of a checkpoint or a repository."""
    text = str(source)
    if isinstance(source, Path) or Path(text).exists() or text.lower().endswith(WEIGHTS) and ":" not in text:
        return True
    return text.startswith((".", "/", "~", "\\")) or (text not in known() and text not in EMBEDDED and HUB_ID.match(text) is None)


def sources_of(source: str, dtype: str | None = None) -> list[HubSource]:
    """Where on the hub to look, in order, for a known name or an id owner/name[@revision][:file]. dtype: prefer "fp16" or "fp32".

    Raises HubError for anything else.
    """
    if source in known():
        return known()[source].sources_for(dtype)
    if source in EMBEDDED:
        raise HubError(f"{source}: comes with the package, nothing to download; --checkpoint {source} uses it")
    match = HUB_ID.match(source)
    if match is None:
        raise HubError(
            f"{source!r}: no such file, folder, known name ({', '.join([*EMBEDDED, *known()])}; see `analogist weights list`) or hub id "
            "owner/name"
        )
    return [HubSource(match[1], match[2] or "main", match[3], dtype)]


def find(source: str | Path, *, dtype: str | None = None, progress: bool = True) -> Path:
    """A checkpoint's file or folder on this machine: the path itself, an embedded one, else from the hub cache, else downloaded.

    dtype: "fp16" or "fp32", the preferred precision if there is a choice. A complete copy in the cache is used without asking the
    hub if its revision is a full commit or HF_HUB_OFFLINE is set.
    Raises HubError or WeightsError naming the variable or command that helps.
    """
    if is_local(source):
        path = Path(source).expanduser()
        if not path.exists() and os.sep not in str(source) and not str(source).lower().endswith(WEIGHTS):
            sources_of(str(source))  # raises, naming what is known
        return path
    if source in EMBEDDED:
        return embedded(str(source))
    places = sources_of(str(source), dtype)
    for place in places:
        if offline() or len(place.revision) == 40:
            found = in_cache(place)
            if found is not None:
                return verified(found, place, progress=progress)
    if offline():
        raise HubError(
            f"{source}: not complete in the hub cache ({cache()}), and HF_HUB_OFFLINE is set; unset it, or run "
            f"`analogist weights fetch {source}` on a machine with a network and copy its cache"
        )
    return fetch(str(source), dtype=dtype, progress=progress)


def fetch(source: str, *, dtype: str | None = None, progress: bool = True) -> Path:
    """Downloads the needed files of a known name or hub id, checks their hashes, and returns the file or folder in the cache.

    Mirrors are tried in turn; each failure gives a HubWarning. If the hub cannot be reached and the cache holds the complete
    checkpoint, that copy is used, with a HubWarning. Raises HubError.
    """
    if offline():
        raise HubError(f"{source}: HF_HUB_OFFLINE is set; unset it to download")
    places = sources_of(source, dtype)
    failures: list[HubError] = []
    for place in places:
        try:
            return _download(place, dtype, progress)
        except HubError as error:
            failures.append(error)
            if error.unreachable:
                found = in_cache(place)
                if found is not None:
                    warnings.warn(f"{error}; using the copy in the cache", HubWarning, stacklevel=2)
                    return verified(found, place, progress=progress)
            if place is not places[-1]:
                warnings.warn(f"{error}; trying the next mirror", HubWarning, stacklevel=2)
    if len(failures) == 1:
        raise failures[0]
    raise HubError(f"{source}: none of its {len(failures)} mirrors could be used; the last: {failures[-1]}")


def in_cache(place: HubSource) -> Path | None:
    """The checkpoint of a place if the hub cache holds all of it, else None."""
    repo = cache() / ("models--" + place.repo.replace("/", "--"))
    commit = place.revision
    if not COMMIT.fullmatch(commit):
        try:
            commit = (repo / "refs" / commit).read_bytes().decode("ascii", "replace").strip()
        except (OSError, ValueError):  # ValueError: a name that no file can have
            return None
        if not COMMIT.fullmatch(commit):
            return None  # a damaged cache holds nothing of this branch
    return next(_complete(repo / "snapshots" / commit, place.file), None)


def _complete(folder: Path, file: str | None) -> Iterator[Path]:
    """The part of a snapshot that opens as a checkpoint: the requested file, else the folder, else its only file."""
    if not folder.is_dir():
        return
    files = sorted(folder.glob("*.safetensors"))
    candidates = [folder / file] if file is not None else [folder, *(files if len(files) == 1 else [])]
    for path in candidates:
        try:
            open_checkpoint(path)
        except WeightsError:
            continue
        yield path


def _download(place: HubSource, dtype: str | None, progress: bool) -> Path:
    """Downloads one place's files into the cache and checks each. Raises HubError."""
    try:
        paths, main, published = _get(place, dtype, progress)
    except HubError:
        raise
    except Exception as error:  # from the hub client, its HTTP library or the operating system
        raise _named(place, error) from None
    name, folder = next(iter(paths.items()))
    for _ in Path(name).parts:
        folder = folder.parent
    found = verified(folder if main is None else paths[main], place, files=paths, published=published, progress=progress)
    try:
        open_checkpoint(found)
    except WeightsError as error:
        raise HubError(f"{place}: downloaded, but cannot be used: {error}") from None
    return found


def _get(place: HubSource, dtype: str | None, progress: bool) -> tuple[dict[str, Path], str | None, dict[str, str]]:
    """(name -> file in the cache, which of them is the checkpoint or None for their folder, name -> published SHA-256)."""
    from huggingface_hub import HfApi, hf_hub_download

    info = HfApi(endpoint=endpoint()).model_info(place.repo, revision=place.revision, files_metadata=True, timeout=30)
    if info.sha is None:
        raise HubError(f"{place}: the hub names no commit for it; try again, or give a folder on this machine")
    siblings = {sibling.rfilename: sibling for sibling in info.siblings or []}
    chosen, main = choose_files(place, list(siblings), place.dtype or dtype)
    settings = {"revision": info.sha, "endpoint": endpoint(), "cache_dir": cache(), "tqdm_class": None if progress else SilentBar}
    paths = {name: Path(hf_hub_download(place.repo, name, **settings)) for name in chosen}
    if place.revision != info.sha:
        # Files are requested by commit, so the client does not record the branch, by which the cache is looked up later.
        reference = cache() / ("models--" + place.repo.replace("/", "--")) / "refs" / place.revision
        atomic_write(output_folder(reference.parent) / reference.name, info.sha.encode())
    return paths, main, {name: lfs.sha256 for name in chosen if (lfs := siblings[name].lfs) is not None}


class SilentBar(tqdm):
    """A hidden progress bar that replaces the hub client's own."""

    def __init__(self, *args, **settings) -> None:
        super().__init__(*args, **{**{key: value for key, value in settings.items() if key != "name"}, "disable": True})


def _named(place: HubSource, error: Exception) -> HubError:
    """Turns an error of the hub client into one line that says what to do."""
    from huggingface_hub import errors

    words = " ".join(str(error).split())
    status = getattr(getattr(error, "response", None), "status_code", None)
    match error:
        case errors.GatedRepoError():
            return HubError(f"{place}: gated; accept its terms at {endpoint()}/{place.repo} and set HF_TOKEN to your token")
        case errors.RepositoryNotFoundError():
            return HubError(f"{place}: no such repository at {endpoint()} (HF_ENDPOINT); if it is private, set HF_TOKEN")
        case errors.RevisionNotFoundError():
            return HubError(f"{place}: no such revision; leave it out for the newest")
        case errors.HFValidationError():
            return HubError(f"{place}: not a valid hub id; give owner/name")
        case errors.HfHubHTTPError() if status in (401, 403):
            return HubError(f"{place}: {endpoint()} denied access ({status}); set HF_TOKEN to a token that may read it")
        case errors.EntryNotFoundError() if status == 404:
            return HubError(f"{place}: a file named in its listing is missing ({words[:160]}); try again, or try another mirror")
    if "No space left" in words or "not enough free disk space" in words.lower():
        return HubError(f"{place}: the disk is full ({cache()}); free some space, or set HF_HUB_CACHE to another disk")
    hint = f"check the network, or set HF_ENDPOINT to a mirror (now {endpoint()}), and run again; finished files are kept"
    return HubError(f"{place}: the download failed ({words[:200] or type(error).__name__}); {hint}", unreachable=True)
