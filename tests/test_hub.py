"""Checkpoints by name, from a stand-in for the hub on the loopback: well, broken off, wrong, gated, missing, offline."""

import hashlib
import json
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from analogist import Analogist
from analogist.checkpoints import hub
from analogist.checkpoints.hub_files import HubError, choose_files, sha256
from analogist.cli.main import main
from analogist.weights import WeightsError
from analogist.weights.known import HubSource, Known, known
from tests.servers.hub import COMMIT, Repository, hub_server, of_folder
from tests.test_cli import fails

CHECKPOINT = Path(__file__).parent / "parity" / "checkpoint"
UNET = "unet/diffusion_pytorch_model.safetensors"
TOKEN = "hf_planted_7d21"


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN", "HF_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("ANALOGIST_CACHE", str(tmp_path / "own"))
    monkeypatch.setattr("time.sleep", lambda _: None)  # the client's pauses between attempts


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    extra = {
        "safety_checker/model.safetensors": b"x" * 20_000,
        "unet/diffusion_pytorch_model.bin": b"y" * 20_000,
        "README.md": b"# x",
    }
    return of_folder(CHECKPOINT) | extra


@pytest.fixture
def served(monkeypatch, files):
    """(the server, its repository me/small, whose behaviour a test may change)."""
    repository = Repository(dict(files))
    with hub_server({"me/small": repository}) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server, repository


def whole(folder: Path) -> bool:
    """Whether a folder holds the parity checkpoint's weights byte for byte."""
    return all(
        (folder / path.relative_to(CHECKPOINT)).read_bytes() == path.read_bytes() for path in CHECKPOINT.rglob("*.safetensors")
    )


def nothing_half(tmp_path: Path, files: dict[str, bytes]) -> bool:
    """Whether everything that the cache shows as a file is one of the repository's, whole."""
    for snapshot in (tmp_path / "hub").glob("models--*/snapshots/*"):
        for path in snapshot.rglob("*"):
            if path.is_file() and path.read_bytes() != files[path.relative_to(snapshot).as_posix()]:
                return False
    return True


def test_a_hub_id_is_fetched_once_and_only_what_is_needed(served):
    server, _ = served
    found = hub.find("me/small", progress=False)
    assert whole(found)
    assert server.fetched() == sorted(path.relative_to(CHECKPOINT).as_posix() for path in CHECKPOINT.rglob("*") if path.is_file())
    before = len(server.requests)
    assert hub.find("me/small", progress=False) == found
    assert not any("/resolve/" in path for _, path, *_ in server.requests[before:])


def test_a_model_comes_from_a_hub_id_and_says_so_in_its_record(served):
    model = Analogist.from_checkpoint("me/small", device="cpu")
    assert model.describe()["name"] == "me/small"
    assert model.checkpoint.fingerprint == Analogist.from_checkpoint(CHECKPOINT, device="cpu").checkpoint.fingerprint


def test_what_is_in_the_cache_works_offline_and_what_is_not_says_what_to_do(served, monkeypatch):
    server, _ = served
    found = hub.find("me/small", progress=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    before = len(server.requests)
    assert hub.find("me/small", progress=False) == hub.find(f"me/small@{COMMIT}", progress=False) == found
    with pytest.raises(
        HubError, match=r"not complete in the hub cache.*HF_HUB_OFFLINE.*analogist weights fetch me/other"
    ):
        hub.find("me/other", progress=False)
    with pytest.raises(HubError, match="HF_HUB_OFFLINE"):
        hub.fetch("me/small", progress=False)
    (found / UNET).unlink()
    with pytest.raises(HubError, match="not complete in"):
        hub.find("me/small", progress=False)
    assert len(server.requests) == before


def test_a_hub_that_is_down_is_said_and_the_cache_used(served, monkeypatch):
    found = hub.find("me/small", progress=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.warns(hub.HubWarning, match="using the copy in the cache"):
        assert hub.find("me/small", progress=False) == found
    with pytest.raises(HubError, match=r"me/other: the download failed .*HF_ENDPOINT"):
        hub.find("me/other", progress=False)


def test_a_connection_that_breaks_off_is_taken_up_where_it_stopped(served, monkeypatch):
    server, repository = served
    monkeypatch.setattr(
        "huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 2**16
    )  # the file is smaller than the client's chunk of 10 MB
    repository.breaks[UNET] = 2
    assert whole(hub.find("me/small", progress=False))
    ranges = [header for method, path, header, _ in server.requests if method == "GET" and path.endswith(UNET)]
    assert ranges[0] is None and all(header.startswith("bytes=") for header in ranges[1:]) and len(ranges) == 3


def test_a_connection_that_stays_broken_leaves_nothing_half_and_a_second_run_ends_well(served, files, tmp_path):
    _, repository = served
    repository.lost.add("vae/diffusion_pytorch_model.safetensors")
    with pytest.raises(HubError, match="missing"):
        hub.find("me/small", progress=False)
    assert hub.in_cache(HubSource("me/small")) is None and nothing_half(tmp_path, files)
    repository.lost.clear()
    assert whole(hub.find("me/small", progress=False))


def test_a_wrong_hash_is_removed_and_never_taken_for_whole(served, files, tmp_path, monkeypatch):
    _, repository = served
    repository.wrong.add(UNET)
    with pytest.raises(HubError, match=rf"{UNET} is not the published file .*removed from the cache"):
        hub.find("me/small", progress=False)
    assert nothing_half(tmp_path, files)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(HubError, match="not complete in"):
        hub.find("me/small", progress=False)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    repository.wrong.clear()
    assert whole(hub.find("me/small", progress=False))


def test_a_file_damaged_in_the_cache_is_found_before_it_is_used(served, monkeypatch):
    found = hub.find("me/small", progress=False)
    blob = (found / UNET).resolve()
    content = blob.read_bytes()
    blob.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(HubError, match="not the published file"):
        hub.find("me/small", progress=False)
    assert not (found / UNET).exists()


def test_a_gated_repository_names_the_page_and_the_token(served, monkeypatch):
    server, repository = served
    repository.gated = True
    with pytest.raises(HubError, match=rf"gated; accept its terms at {server.url}/me/small and set HF_TOKEN"):
        hub.find("me/small", progress=False)
    monkeypatch.setenv("HF_TOKEN", server.token)
    assert whole(hub.find("me/small", progress=False))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("me/nothing", "no such repository at http.*HF_ENDPOINT.*HF_TOKEN"),
        ("me/small@nowhere", "no such revision"),
        ("me/small:other.safetensors", "no such file in the repository"),
        ("sd15-inpaint", "no such file, folder, known name .lab, lab-generic, sd15-inpainting"),
        ("me/pickles", "pickle files, which are never opened"),
        ("me/two", "several checkpoints .*me/two:a.safetensors"),
        ("me/empty", "no safetensors weights"),
        ("me/broken", "downloaded, but cannot be used"),
    ],
)
def test_everything_that_cannot_be_had_is_one_line(served, name, message):
    server, _ = served
    pickles = {"model_index.json": b"{}", "unet/diffusion_pytorch_model.bin": b"x", "vae/diffusion_pytorch_model.bin": b"x"}
    server.repositories |= {
        "me/pickles": Repository(pickles),
        "me/two": Repository({"a.safetensors": b"x", "b.safetensors": b"x"}),
        "me/empty": Repository({"README.md": b"x"}),
        "me/broken": Repository({"a.safetensors": b"not safetensors"}),
    }
    with pytest.raises(WeightsError, match=message) as caught:
        hub.find(name, progress=False)
    assert "\n" not in str(caught.value)


def test_a_path_is_never_looked_for_on_the_hub(served, tmp_path, monkeypatch):
    server, _ = served
    monkeypatch.chdir(tmp_path)
    shutil.copytree(CHECKPOINT, tmp_path / "me" / "small")
    assert hub.find("me/small") == Path("me/small")
    for path in ("./x", "/x/y", "folder/model.safetensors", "model.ckpt", tmp_path / "x"):
        assert hub.is_local(path)
        with pytest.raises(WeightsError, match="no such file or folder"):
            Analogist.from_checkpoint(path, device="cpu")
    assert server.requests == []


def test_a_single_file_and_a_revision_are_chosen_by_name(served, tmp_path):
    server, _ = served
    tensors = {f"unet.{name}": tensor for name, tensor in load_file(CHECKPOINT / UNET).items()}
    save_file(tensors, tmp_path / "x.safetensors")
    content = (tmp_path / "x.safetensors").read_bytes()
    server.repositories["me/files"] = Repository(
        {"a.safetensors": content, "sub/b.safetensors": content, "c.fp16.safetensors": content}
    )
    place = hub.sources_of(f"me/files@{COMMIT}:sub/b.safetensors")[0]
    assert (place.repo, place.revision, place.file) == ("me/files", COMMIT, "sub/b.safetensors")
    for dtype, chosen in (("fp16", "c.fp16.safetensors"), (None, "a.safetensors")):
        assert choose_files(HubSource("me/files"), ["a.safetensors", "c.fp16.safetensors"], dtype) == ([chosen], chosen)


def test_the_files_chosen_are_those_of_the_precision_asked_for_else_the_other():
    full = ["unet/diffusion_pytorch_model.safetensors.index.json", "unet/diffusion_pytorch_model-00001-of-00002.safetensors",
            "unet/diffusion_pytorch_model-00002-of-00002.safetensors", "vae/diffusion_pytorch_model.safetensors"]  # fmt: skip
    half = ["unet/diffusion_pytorch_model.fp16.safetensors", "text_encoder/model.fp16.safetensors"]
    other = [
        "unet/diffusion_pytorch_model.non_ema.safetensors",
        "vae/diffusion_pytorch_model.bin",
        "safety_checker/model.safetensors",
    ]
    listing = [*full, *half, *other, "model_index.json", "unet/config.json", "tokenizer/vocab.json"]
    small = ["model_index.json", "unet/config.json", "tokenizer/vocab.json"]
    place = HubSource("me/x")
    assert choose_files(place, listing, "fp32") == ([*small, *full, "text_encoder/model.fp16.safetensors"], None)
    assert choose_files(place, listing, "fp16") == ([*small, half[0], full[3], half[1]], None)


def test_a_known_name_tries_its_mirrors_in_turn_and_checks_the_published_hash(served, monkeypatch):
    server, _ = served
    right = {UNET: hashlib.sha256((CHECKPOINT / UNET).read_bytes()).hexdigest()}
    server.repositories["me/gated"] = Repository(of_folder(CHECKPOINT), gated=True)
    server.repositories["me/altered"] = Repository(of_folder(CHECKPOINT))
    altered, good = HubSource("me/altered", sha256={UNET: "0" * 64}), HubSource("me/small", sha256=right)
    sources = (HubSource("me/gone"), HubSource("me/gated"), altered, good)
    entry = Known("tiny", "sd15-inpainting", "small", "MIT", "http://x", sources)
    monkeypatch.setattr("analogist.checkpoints.hub.known", lambda: {"tiny": entry})
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = hub.find("tiny", progress=False)
    assert "me--small" in str(found) and whole(found)
    lines = [str(warning.message) for warning in said if issubclass(warning.category, hub.HubWarning)]
    assert [line.split(":")[0] for line in lines] == ["me/gone", "me/gated", "me/altered"] and "not the published file" in lines[
        2
    ]
    monkeypatch.setattr("analogist.checkpoints.hub.known", lambda: {"tiny": Known("tiny", "x", "x", "x", "x", sources[:2])})
    with pytest.warns(hub.HubWarning), pytest.raises(HubError, match="none of its 2 mirrors"):
        hub.find("tiny", progress=False)


def test_of_an_sdxl_folder_both_text_encoders_are_fetched_with_their_configs():
    wanted = [
        "unet/config.json", "vae/config.json", "text_encoder/config.json", "text_encoder_2/config.json", "tokenizer_2/vocab.json",
        "unet/diffusion_pytorch_model.fp16.safetensors", "vae/diffusion_pytorch_model.fp16.safetensors",
        "text_encoder/model.fp16.safetensors", "text_encoder_2/model.fp16.safetensors",
    ]  # fmt: skip
    listing = [*wanted, "text_encoder_2/model.onnx", "unet/diffusion_pytorch_model.bin", "README.md"]
    files, single = choose_files(HubSource("me/sdxl"), listing, "fp16")
    assert single is None and sorted(files) == sorted(wanted)
    with pytest.raises(HubError, match="text_encoder_2/"):
        choose_files(HubSource("me/sdxl"), [name for name in wanted if name != "text_encoder_2/model.fp16.safetensors"], "fp16")


def test_the_list_of_known_checkpoints_is_well_formed(capsys):
    for name, entry in known().items():
        assert (
            entry.family in ("sd15-inpainting", "sd2-inpainting", "sdxl-inpainting")
            and entry.licence
            and entry.sources
            and hub.HUB_ID.match(name) is None
        )
        for source in entry.sources:
            assert hub.HUB_ID.match(source.repo) and source.dtype in ("fp16", "fp32") and source.bytes > 1e9
            assert all(len(digest) == 64 for digest in source.sha256.values())
        assert entry.sources_for("fp16")[0].dtype == "fp16" and entry.sources_for("fp32")[0].dtype == "fp32"
    assert main(["weights", "list"]) == 0
    out = capsys.readouterr().out
    assert all(str(source) in out for entry in known().values() for source in entry.sources) and "CreativeML OpenRAIL-M" in out


def test_fetch_prints_the_path_and_run_takes_the_name(served, capsys, tmp_path):
    assert main(["weights", "fetch", "me/small", "--quiet"]) == 0
    folder = Path(capsys.readouterr().out.strip())
    assert whole(folder)
    argv = ["run", "--grid", str(CHECKPOINT.parent / "grid.png"), "--size", "128", "--steps", "2", "--device", "cpu", "--quiet"]
    assert main([*argv, "--checkpoint", "me/small", "--out", str(tmp_path / "out")]) == 0
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["checkpoint"]["path"] == record["checkpoint"]["name"] == "me/small"
    assert main(["run", "--config", str(tmp_path / "out" / "run.json"), "--out", str(tmp_path / "again"), "--quiet"]) == 0
    assert (tmp_path / "again" / "b_prime_42.png").read_bytes() == (tmp_path / "out" / "b_prime_42.png").read_bytes()


def test_fetch_ends_in_one_line(served, capsys):
    assert "no such repository" in fails(capsys, ["weights", "fetch", "me/none", "--quiet"])
    assert "no such file, folder, known name" in fails(capsys, ["weights", "fetch", "sd3"])
    assert "invalid choice" in fails(capsys, ["weights", "fetch", "me/small", "--dtype", "int8"])


def test_a_token_is_sent_and_never_shown(served, monkeypatch, capfd, caplog, tmp_path):
    server, repository = served
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    caplog.set_level("DEBUG")
    repository.gated = True
    assert main(["weights", "fetch", "me/small", "--quiet"]) == 2
    assert any(sent for *_, sent in server.requests)
    repository.gated = False
    assert main(["weights", "fetch", "me/small", "--quiet"]) == 0
    said = "".join(capfd.readouterr()) + caplog.text
    assert TOKEN not in said
    assert not any(TOKEN.encode() in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def test_a_hash_is_the_files_own(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    assert sha256(tmp_path / "x") == hashlib.sha256(b"abc").hexdigest()


@pytest.mark.parametrize(
    "variables",
    [
        {}, {"HF_HOME": "$HOME/hf"}, {"HF_HOME": "~/hf"}, {"HF_HOME": "${HOME}/a b/hf"}, {"HF_HOME": "relative/hf"},
        {"HF_HUB_CACHE": "$HOME/hub"}, {"HF_HUB_CACHE": "~/hub"}, {"HUGGINGFACE_HUB_CACHE": "~/$NAME"}, {"XDG_CACHE_HOME": "$HOME/xdg"},
        {"HUGGINGFACE_HUB_CACHE": "/old", "HF_HOME": "/home"}, {"HF_HUB_CACHE": "/new", "HUGGINGFACE_HUB_CACHE": "/o"},
        {"HF_HOME": "$UNKNOWN/hf"}, {"HF_HUB_OFFLINE": "on"}, {"TRANSFORMERS_OFFLINE": "1"}, {"HF_HUB_OFFLINE": "0"},
        {"HF_ENDPOINT": "http://127.0.0.1:9/"},
    ],
)  # fmt: skip
def test_the_variables_of_the_hub_mean_what_its_own_client_takes_them_for(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("HF_HUB_CACHE", "HF_ENDPOINT", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HOME": str(tmp_path), "NAME": "named", **variables}.items():
        monkeypatch.setenv(name, value)
    code = "import huggingface_hub.constants as c; print(c.HF_HUB_CACHE, c.HF_HUB_OFFLINE, c.ENDPOINT, sep='\\n')"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()
    assert [str(hub.cache()), str(hub.offline()), hub.endpoint()] == said


def test_a_checkpoint_in_the_cache_is_found_by_every_variable_of_the_client(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "0123456789012345678901234567890123456789"
    repo = tmp_path / "hf/hub/models--me--small"
    shutil.copytree(CHECKPOINT, repo / "snapshots" / commit)
    (repo / "refs").mkdir()
    (repo / "refs/main").write_text(commit)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("PLACE", str(tmp_path))
    for name, value in (("HF_HOME", "$PLACE/hf"), ("HUGGINGFACE_HUB_CACHE", "$PLACE/hf/hub"), ("HF_HUB_CACHE", "$PLACE/hf/hub")):
        for other in ("HF_HOME", "HUGGINGFACE_HUB_CACHE", "HF_HUB_CACHE"):
            monkeypatch.delenv(other, raising=False)
        monkeypatch.setenv(name, value)
        assert hub.find("me/small", progress=False) == repo / "snapshots" / commit
