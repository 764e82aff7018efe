"""Files of a GitHub repository at a commit, without git: listed through the API, downloaded one by one, each checked by its hash.

GITHUB_API_URL and GITHUB_RAW_URL name other addresses (a mirror, GitHub Enterprise); GITHUB_TOKEN is sent to the API alone.
"""

import hashlib
import json
import os
import time
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import quote

from analogist.disk.writing import atomic_write, output_folder
from analogist.experiments.evaluate.data import DataError

API, RAW = "https://api.github.com", "https://raw.githubusercontent.com"
ATTEMPTS, TIMEOUT = 4, 60.0  # of one file; seconds


def blob_key(content: bytes) -> str:
    """Git's name of a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def list_folder(repository: str, revision: str, folders: tuple[str, ...]) -> tuple[str, str, dict[str, tuple[int, str]]]:
    """(commit, the first of the folders that exists, path inside it -> (bytes, git's name of the content)). Raises DataError."""
    commit = _api(f"repos/{repository}/commits/{quote(revision, safe='')}")
    sha, root = commit["sha"], commit["commit"]["tree"]["sha"]
    for folder in folders:
        tree: str | None = root
        for part in folder.split("/"):
            entries = _api(f"repos/{repository}/git/trees/{tree}")["tree"]
            tree = next((one["sha"] for one in entries if one["path"] == part and one["type"] == "tree"), None)
            if tree is None:
                break
        if tree is not None:
            listed = _api(f"repos/{repository}/git/trees/{tree}?recursive=1")
            if listed.get("truncated"):
                raise DataError(f"{repository} at {sha}: GitHub lists only a part of {folder}; try again later, or clone it with git")
            return sha, folder, {one["path"]: (one.get("size", 0), one["sha"]) for one in listed["tree"] if one["type"] == "blob"}
    raise DataError(f"{repository} at {sha}: it has none of the folders {', '.join(folders)}; try another --revision")


def licence_of(repository: str, commit: str) -> str:
    """The first line of the repository's LICENSE at a commit, "" if it has none."""
    try:
        lines = _read(_raw(repository, commit, "LICENSE")).decode("utf-8", "replace").splitlines()
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return ""
        raise DataError(f"{repository} at {commit}: its LICENSE cannot be read ({error})") from error
    except OSError as error:
        raise DataError(f"{repository} at {commit}: its LICENSE cannot be read ({error})") from error
    return next((line.strip() for line in lines if line.strip()), "")


def download(repository: str, commit: str, path: str, key: str, target: Path) -> None:
    """Downloads one file unless it is there, and checks it by git's name of its content. Raises DataError."""
    if target.is_file() and blob_key(target.read_bytes()) == key:
        return
    why = ""
    for attempt in range(ATTEMPTS):
        try:
            content = _read(_raw(repository, commit, path))
        except urllib.error.HTTPError as error:
            why = str(error)
            if error.code not in (429, 500, 502, 503, 504):
                break
        except OSError as error:
            why = str(error)
        else:
            if blob_key(content) == key:
                atomic_write(output_folder(target.parent) / target.name, content)
                return
            why = "its content is not what the commit says"
        if attempt + 1 < ATTEMPTS:
            time.sleep(_pause(attempt))
    raise DataError(f"{repository} at {commit}: {path} cannot be downloaded ({why})")


def _pause(attempt: int) -> float:
    return 0.5 * 3.0**attempt


def _raw(repository: str, commit: str, path: str) -> urllib.request.Request:
    address = os.environ.get("GITHUB_RAW_URL") or RAW
    return urllib.request.Request(f"{address.rstrip('/')}/{repository}/{commit}/{quote(path)}", headers={"User-Agent": "analogist"})


def _api(path: str) -> dict:
    address = os.environ.get("GITHUB_API_URL") or API
    headers = {"User-Agent": "analogist", "Accept": "application/vnd.github+json"}
    token = os.environ.get("GITHUB_TOKEN")
    if token:
        headers["Authorization"] = f"Bearer {token}"
    what = path.partition("/git/")[0].removeprefix("repos/")
    try:
        found = json.loads(_read(urllib.request.Request(f"{address.rstrip('/')}/{path}", headers=headers)))
    except urllib.error.HTTPError as error:
        hint = {404: "no such repository or revision", 422: "no such revision"}.get(error.code, str(error.reason))
        if error.code in (403, 429):
            hint = "GitHub's limit for requests without a token is reached; wait an hour, or set GITHUB_TOKEN"
        raise DataError(f"{what}: cannot be listed ({error.code}: {hint})") from None
    except (OSError, ValueError) as error:
        said = " ".join(str(error).split())[:200]
        raise DataError(f"{what}: cannot be listed ({said}). GITHUB_API_URL selects another address") from None
    if not isinstance(found, dict):
        raise DataError(f"{what}: the answer of {address} is not that of GitHub's API")
    return found


def _read(request: urllib.request.Request) -> bytes:
    with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
        return answer.read()
