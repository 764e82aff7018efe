"""Files that are no checkpoints: each ends in one WeightsError that says what it is, and nothing is believed before it is checked."""

import io
import json
import pickle
import tracemalloc
import zipfile

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save, save_file

from analogist.cli.main import main
from analogist.models.unet import UNet, UNetConfig
from analogist.weights import WeightsError, open_checkpoint
from analogist.weights.header import read_header
from analogist.weights.survey import survey
from tests.checkpoints import golden, single_file, small, write_folder, write_single
from tests.test_keymaps import sparse

GOOD = save({"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.zeros(4, dtype=torch.float16), "c": torch.zeros(())}, {"format": "pt"})


def zipped():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", b"x" * 100)
    return buffer.getvalue()


def with_header(header, data=b"", padding=b""):
    text = (header if isinstance(header, bytes) else json.dumps(header).encode()) + padding
    return len(text).to_bytes(8, "little") + text + data


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


FILES = {
    "empty": ("a.safetensors", b"", "the file is empty"),
    "short": ("a.safetensors", b"12345", "too few"),
    "zip": ("a.safetensors", zipped(), "zip archive as torch.save writes it"),
    "pickle": ("a.safetensors", pickle.dumps({"state_dict": {}}, 2), "this is a pickle"),
    "newer pickle": ("a.safetensors", pickle.dumps({"state_dict": {}}, 5), "this is a pickle"),
    "ckpt": ("model.ckpt", zipped(), "never opened"),
    "bin by name": ("pytorch_model.bin", b"\x00" * 100, "never opened"),
    "upper case suffix": ("MODEL.PT", b"\x00" * 100, "never opened"),
    "web page": ("a.safetensors", b"<!DOCTYPE html><html><body>Sign in</body></html>", "web page"),
    "web page after blanks": ("a.safetensors", b"\n\n  <html lang='en'>" + b" " * 50, "web page"),
    "server error": ("a.safetensors", b'{"error":"Repository not found"}', "server's error message"),
    "git lfs": ("a.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 4265203873\n", "Git-LFS pointer"),
    "gguf": ("a.safetensors", b"GGUF" + b"\x03" * 60, "GGUF"),
    "noise": ("a.safetensors", bytes(range(200, 256)) * 4, "not a safetensors file"),
    "cut in the header": ("a.safetensors", GOOD[:40], "cut off"),
    "cut in the tensors": ("a.safetensors", GOOD[:-5], "cut off; fetch it again"),
    "too long": ("a.safetensors", GOOD + b"\0", "the header does not describe this file"),
    "not json": ("a.safetensors", with_header(b"{'a': 1}" + b" " * 20), "not JSON"),
    "deep json": ("a.safetensors", with_header(b'{"a":' + b"[" * 50_000), "not JSON"),
    "not an object": ("a.safetensors", with_header(b"[1, 2, 3]" + b" " * 20), "does not begin with '{'"),
    "name twice": ("a.safetensors", with_header(b'{"a":1,"a":2}' + b" " * 20), "twice"),
    "NaN": ("a.safetensors", with_header(b'{"a": NaN}        '), "NaN"),
    "unknown type": ("a.safetensors", with_header({"a": entry("F4")}, b"\0" * 8), "has the type 'F4'"),
    "negative side": ("a.safetensors", with_header({"a": entry(shape=(-2,))}, b"\0" * 8), "no valid shape"),
    "huge side": ("a.safetensors", with_header({"a": entry(shape=(2**62,))}, b"\0" * 8), "no valid shape"),
    "side is true": ("a.safetensors", with_header({"a": entry(shape=(True, 2))}, b"\0" * 8), "no valid shape"),
    "many sides": ("a.safetensors", with_header({"a": entry(shape=(1,) * 40)}, b"\0" * 8), "no valid shape"),
    "bigger than the file": ("a.safetensors", with_header({"a": entry(shape=(2**20, 2**10), offsets=(0, 2**32))}, b"\0" * 8), "cut off"),
    "offsets turned": ("a.safetensors", with_header({"a": entry(offsets=(8, 0))}, b"\0" * 8), "does not fill"),
    "shape and bytes differ": ("a.safetensors", with_header({"a": entry(shape=(3,))}, b"\0" * 8), "does not fill its 8 bytes"),
    "overlap": ("a.safetensors", with_header({"a": entry(), "b": entry(offsets=(4, 12))}, b"\0" * 12), "overlaps"),
    "hole": ("a.safetensors", with_header({"a": entry(), "b": entry(offsets=(12, 20))}, b"\0" * 20), "gap"),
    "odd entry": ("a.safetensors", with_header({"a": 3}, b"\0" * 8), "must consist of dtype, shape and data_offsets"),
    "odd metadata": ("a.safetensors", with_header({"__metadata__": {"a": 1}, "a": entry()}, b"\0" * 8), "__metadata__"),
}  # fmt: skip


@pytest.mark.parametrize("case", FILES)
def test_a_file_that_is_no_checkpoint_is_named_for_what_it_is(tmp_path, case):
    name, content, words = FILES[case]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(WeightsError) as caught:
        open_checkpoint(path)
    assert words in str(caught.value) and str(path) in str(caught.value)


def test_every_pickle_error_says_how_to_convert(tmp_path):
    path = tmp_path / "sd-v1-5-inpainting.ckpt"
    path.write_bytes(zipped())
    with pytest.raises(WeightsError, match=r"convert it once.*weights_only=True.*save_file"):
        open_checkpoint(path)


def test_a_pickle_is_never_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return open, (str(tmp_path / "sprung"), "w")

    for name in ("a.ckpt", "a.safetensors"):
        (tmp_path / name).write_bytes(pickle.dumps(Trap()))
        with pytest.raises(WeightsError):
            open_checkpoint(tmp_path / name)
    assert not (tmp_path / "sprung").exists()


def test_a_good_header_is_read_with_names_types_and_places(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(GOOD)
    header = read_header(tmp_path / "a.safetensors")
    assert {name: (info.dtype, info.shape) for name, info in header.tensors.items()} == {
        "a.weight": ("F32", (2, 3)), "b": ("F16", (4,)), "c": ("F32", ()),
    }  # fmt: skip
    info = header.tensors["a.weight"]
    assert GOOD[info.start : info.stop] == torch.arange(6.0).numpy().tobytes()
    assert header.metadata == {"format": "pt"}


@pytest.mark.parametrize("unaligned", [0, 1, 3])
def test_headers_of_any_length_and_padding_are_read(tmp_path, unaligned):
    (tmp_path / "a.safetensors").write_bytes(with_header({"a": entry()}, b"\0" * 8, b" " * unaligned))
    assert set(read_header(tmp_path / "a.safetensors").tensors) == {"a"}


def refused(path, words, **options):
    with pytest.raises(WeightsError) as caught:
        open_checkpoint(path, **options)
    assert words in str(caught.value), str(caught.value)


def test_a_path_that_is_not_there_is_named(tmp_path):
    refused(tmp_path / "none.safetensors", "no such file or folder")


def test_a_folder_without_parts_says_what_it_holds(tmp_path):
    (tmp_path / "readme.txt").write_text("x")
    refused(tmp_path, "unet/, vae/, text_encoder/ missing, it holds readme.txt")
    (tmp_path / "model.safetensors").write_bytes(GOOD)
    refused(tmp_path, f"give one of its files, for example {tmp_path / 'model.safetensors'}")


def test_a_folder_of_pickles_says_so(tmp_path):
    folder = write_folder(tmp_path, "sd15")
    (folder / "unet" / "diffusion_pytorch_model.safetensors").rename(folder / "unet" / "diffusion_pytorch_model.bin")
    refused(folder, "only pickles (diffusion_pytorch_model.bin)")


def test_a_folder_that_lacks_a_part_names_it(tmp_path):
    parts = {part: tensors for part, tensors in small("sd15").items() if part != "vae"}
    refused(write_folder(tmp_path, "sd15", parts, configs=False), "vae/ missing")


def test_parts_in_each_others_folders_are_noticed(tmp_path):
    folder = write_folder(tmp_path, "sd15")
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    (folder / "vae" / "diffusion_pytorch_model.safetensors").replace(file)
    refused(folder, "no diffusion_pytorch_model.safetensors")
    save_file(small("sd15")["vae"], folder / "vae" / "diffusion_pytorch_model.safetensors")
    save_file(small("sd15")["vae"], file)
    refused(folder, "it holds no UNet; it looks like a VAE alone")


@pytest.mark.parametrize(
    ("index", "words"),
    [
        ({"weight_map": {"a.weight": "../secret.safetensors"}}, "is not in the same folder"),
        ({"weight_map": {"a.weight": "one.safetensors", "x": "one.safetensors"}}, "not in the shard it names"),
        ({"weight_map": {"a.weight": "one.safetensors"}}, "twice or unlisted"),
        ({"weight_map": {"a.weight": "two.safetensors"}}, "No such file"),
        ({"weight_map": {"a.weight": 3}}, "no weight_map"),
        ([], "expected a JSON object"),
    ],
)
def test_a_wrong_shard_index_is_named(tmp_path, index, words):
    folder = write_folder(tmp_path, "sd15")
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    (folder / "unet" / "one.safetensors").write_bytes(GOOD)
    (folder / "unet" / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    refused(folder, words)


def test_a_config_that_is_no_json_is_named(tmp_path):
    folder = write_folder(tmp_path, "sd15")
    (folder / "unet" / "config.json").write_text("{")
    refused(folder, "config.json: not a JSON file")
    (folder / "unet" / "config.json").unlink()
    refused(folder, "cannot be read", config=tmp_path / "nowhere.json")


def test_a_single_file_without_vae_asks_for_one(tmp_path):
    parts = {**small("sd15"), "vae": {}}
    path = write_single(tmp_path / "a.safetensors", "sd15", parts)
    refused(path, "without a VAE; give one with vae=")


def test_a_single_file_without_text_encoder_is_named(tmp_path):
    path = write_single(tmp_path / "a.safetensors", "sd15", {**small("sd15"), "text": {}})
    tensors = {name: t for name, t in _tensors(path).items() if "position_ids" not in name}
    save_file(tensors, path)
    refused(path, "without a text encoder")


def _tensors(path):
    from safetensors.torch import load_file

    return load_file(path)


def test_options_that_do_not_apply_are_refused(tmp_path):
    folder = write_folder(tmp_path / "folder", "sd15")
    file = write_single(tmp_path / "a.safetensors", "sd15")
    refused(folder, "ema=True is for single LDM files", ema=True)
    refused(file, "holds no moving averages", ema=True)
    refused(file, "is for folders", variant="fp16")


@pytest.mark.parametrize("case", ["zip", "git lfs", "web page", "cut in the tensors", "empty"])
def test_the_command_line_ends_in_one_line_and_code_2(tmp_path, capsys, case):
    name, content, words = FILES[case]
    (tmp_path / name).write_bytes(content)
    assert main(["weights", "inspect", str(tmp_path / name)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and words in err and "Traceback" not in err


def allocated(path):
    """Most bytes that reading a header held at once."""
    tracemalloc.start()
    try:
        read_header(path)
    except WeightsError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return peak


HEADER = len(GOOD) - 6 * 4 - 4 * 2 - 4
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["F32", "I64", "dtype", "shape"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def mutated(draw):
    """The good file with bytes of its header changed, or with values of its entries replaced by others."""
    if draw(st.booleans()):
        content = bytearray(GOOD)
        for place, value in draw(st.lists(st.tuples(st.integers(0, HEADER - 1), st.integers(0, 255)), min_size=1, max_size=4)):
            content[place] = value
        cut = draw(st.integers(0, 20))
        return bytes(content[: len(content) - cut] if cut < 5 else content)
    header = json.loads(GOOD[8:HEADER])
    for _ in range(draw(st.integers(1, 3))):
        name = draw(st.sampled_from(sorted(header)))
        if draw(st.booleans()) and isinstance(header[name], dict):
            header[name][draw(st.sampled_from(["dtype", "shape", "data_offsets", "more"]))] = draw(JSON)
        else:
            header[name] = draw(JSON)
    return with_header(header, GOOD[HEADER:])


@settings(max_examples=1000)
@given(content=mutated())
def test_a_thousand_mutated_headers_end_in_weights_error_or_are_sound(tmp_path, content):
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    try:
        header = read_header(path)
    except WeightsError:
        return
    assert all(0 <= info.start <= info.stop <= len(content) for info in header.tensors.values())
    assert sum(info.stop - info.start for info in header.tensors.values()) <= len(content)


@settings(max_examples=100)
@given(content=mutated() | st.integers(0, 2**64 - 1).map(lambda length: length.to_bytes(8, "little") + GOOD[8:]))
def test_no_header_makes_more_be_allocated_than_the_file_could_hold(tmp_path, content):
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    assert allocated(path) < 40 * len(content) + 60_000  # Python's objects for the JSON, and the file object's buffer


UNET = set(golden()["sd15"]["ldm_names"]["unet"].values())
CONFIG = {"unet": {"attention_head_dim": 8, "norm_num_groups": 16}, "vae": {"norm_num_groups": 8}, "text": {"num_attention_heads": 3}}


@settings(max_examples=20)
@given(data=st.data())
def test_mutated_names_and_shapes_of_a_whole_checkpoint_end_in_weights_error(tmp_path, data):
    entries = {name: ["F32", *tensor.shape] for name, tensor in single_file("sd15", small("sd15")).items()}
    for _ in range(data.draw(st.integers(1, 5))):
        name = data.draw(st.sampled_from(sorted(entries)))
        dtype, *shape = entries.pop(name)
        shape = data.draw(st.sampled_from([shape, shape[::-1], [*shape, 1], [0, *shape], shape[1:]]))
        renamed = data.draw(st.sampled_from([name, name + "x", name.replace("0", "9999999999"), "x." + name, name[1:], name + "." + name]))
        entries[renamed] = [dtype, *shape]
    path = sparse(tmp_path / "a.safetensors", entries)
    assert survey(path).parts
    try:
        checkpoint = open_checkpoint(path, config=CONFIG)
        with torch.device("meta"):
            unet = UNet(UNetConfig(**checkpoint.unet))
        fits = checkpoint.compare("unet", unet).fits
    except WeightsError:
        return
    before = {name: ["F32", *tensor.shape] for name, tensor in single_file("sd15", small("sd15")).items() if name in UNET}
    assert not fits or {name: entry for name, entry in entries.items() if name in UNET} == before


@pytest.mark.parametrize(
    "content", [b'\xef\xbb\xbf{"description": "my model"}', b'{"description":"mod\xe8le"}', '{"description": "模型"}'.encode("utf-16")]
)
def test_a_sidecar_of_a_user_interface_in_any_encoding_is_left_alone_with_a_note(content: bytes, tmp_path):
    from analogist.weights.configs import beside

    (tmp_path / "m.safetensors").write_bytes(b"")
    (tmp_path / "m.json").write_bytes(content)
    found = beside(tmp_path / "m.safetensors")
    assert found.parts == {} and any("m.json beside the weights ignored" in note for note in found.notes)


ODD_TOKENIZERS = [
    ("tokenizer_config.json", {"pad_token": 5}, "expected a text"),
    ("tokenizer_config.json", {"pad_token": {"content": [1]}}, "expected a text"),
    ("tokenizer.json", {"added_tokens": 3, "model": {"vocab": {"x": 3}}}, None),
    ("tokenizer.json", {"added_tokens": [3, None], "model": []}, "not in its vocabulary"),
    ("tokenizer.json", {"added_tokens": [{"content": "x", "id": "3"}]}, "not in its vocabulary"),
    ("tokenizer.json", {"model": {"vocab": ["x"]}}, "not in its vocabulary"),
    ("vocab.json", {"x": [3]}, "not in its vocabulary"),
]


@pytest.mark.parametrize(("name", "content", "words"), ODD_TOKENIZERS, ids=str)
def test_an_odd_tokenizer_file_is_read_or_one_line(tmp_path, name, content, words):
    folder = write_folder(tmp_path, "sd15")
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "tokenizer_config.json").write_text('{"pad_token": "x"}')
    (folder / "tokenizer" / name).write_text(json.dumps(content))
    if words is None:
        assert open_checkpoint(folder).pad_token_id == 3
    else:
        refused(folder, words)
