"""What a run gives back can be carried elsewhere (pickle, torch.save, copies, other processes) and says in a few lines what it is."""

import copy
import io
import json
import multiprocessing
import pickle
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from analogist import Analogist, Capture, Placement, PromptGrid
from analogist.attention.capture.maps import Maps
from analogist.attention.measure.heat import word_heat
from analogist.checkpoints.prompt_words import PromptWords, columns_of_word

PICTURE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
PROMPT = "a red boat, a red sail"


def by_pickle(one: object) -> object:
    return pickle.loads(pickle.dumps(one))


def by_torch(one: object) -> object:
    file = io.BytesIO()
    torch.save(one, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


WAYS: dict[str, Callable] = {"pickle": by_pickle, "torch.save": by_torch, "copy": copy.copy, "deepcopy": copy.deepcopy}


@pytest.fixture(scope="module")
def model() -> Analogist:
    return Analogist.from_checkpoint(device="cpu")


@pytest.fixture(scope="module")
def result(model: Analogist):
    grid = PromptGrid(PICTURE, PICTURE[::-1].copy(), PICTURE[:, ::-1].copy())
    capture = [Capture("9.*:probs", steps=[0]), Capture("9.self:probs", steps=[0], reduce="regions", label="r"), Capture("9.self:q")]
    return model(grid, PROMPT, config=model.config.replace(steps=2), capture=capture, progress=False)


def same(one: object, other: object) -> bool:
    return torch.equal(one.tensor, other.tensor) and one.axes == other.axes and one.coords == other.coords


@pytest.mark.parametrize("way", WAYS)
def test_a_result_with_its_maps_is_carried_whole(way: str, result) -> None:
    there = WAYS[way](result)
    assert torch.equal(there.latents, result.latents) and there.record == result.record
    assert [np.asarray(one).tobytes() for one in there.b_primes] == [np.asarray(one).tobytes() for one in result.b_primes]
    assert list(there.maps) == list(result.maps)
    assert all(same(there.maps[name], m) for name, m in result.maps.items())


@pytest.mark.parametrize("way", WAYS)
def test_a_carried_map_still_finds_words_regions_and_tokens(way: str, result) -> None:
    for name, m in result.maps.items():
        there = WAYS[way](m)
        if m.axes[-1] == "key" and m.site.kind == "self" and "query" in m.axes:
            assert same(there.sel(query="B'", key="A'").mean("head"), m.sel(query="B'", key="A'").mean("head"))
        if m.site.kind == "cross":
            assert there.tokens == m.tokens
            for word in ("red", "boat", "red sail", "<start>", "<end>", "<padding>", 3):
                part = there.sel(branch="text", key=word)
                assert same(part, m.sel(branch="text", key=word)), (name, word)
            with pytest.raises(ValueError, match="does not stand in"):
                there.sel(branch="text", key="house")


def test_a_carried_map_does_not_carry_the_text_encoder(result) -> None:
    for m in result.maps.values():
        assert len(pickle.dumps(m)) < m.nbytes + 20_000


@pytest.mark.parametrize("way", WAYS)
def test_maps_lost_ones_and_reduced_ones_are_carried(way: str, result) -> None:
    reduced = next(iter(result.maps.values())).sel(step=0).mean("head")
    there = WAYS[way](Maps({reduced.name: reduced}, {"gone": "the disk was full"}))
    assert there.lost == {"gone": "the disk was full"} and same(there[reduced.name], reduced)


def test_maps_read_from_a_file_are_carried(result, tmp_path) -> None:
    result.maps.save(tmp_path / "maps.safetensors")
    loaded = Maps.load(tmp_path / "maps.safetensors")
    there = by_pickle(loaded)
    cross = next(name for name, m in loaded.items() if m.site.kind == "cross")
    assert same(there[cross].sel(branch="text", key="boat"), loaded[cross].sel(branch="text", key="boat"))


def places_of(tokens: tuple[str, ...], phrase: str, count: int) -> list[int]:
    """Columns of a phrase of whole tokens, or of a special token, by going through the tokens."""
    if phrase == "<padding>":
        return list(range(len(tokens), count))
    pieces = {"<start>": [tokens[0]], "<end>": [tokens[-1]]}.get(phrase, phrase.split())
    firsts = [i for i in range(len(tokens)) if list(tokens[i : i + len(pieces)]) == pieces]
    return sorted({first + k for first in firsts for k in range(len(pieces))})


def as_written_before(path: Path) -> None:
    """Turns a file of maps into one as it was before files held a run's text: with a table of single words."""
    with safe_open(path, framework="pt") as opened:
        about = opened.metadata()
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    described = json.loads(about["maps"])
    for data in described.values():
        assert data.pop("text")["tokens"] == 77
        data["words"] = {
            branch: {word: places_of(tokens, word, 77) for word in tokens[1:-1] if word.isalpha()}
            for branch, tokens in data["tokens"].items()
        }
    save_file(tensors, path, metadata={**about, "maps": json.dumps(described)})


@pytest.mark.parametrize("how", ["saved", "saved twice", "spilled", "written before"])
def test_maps_from_a_file_find_words_phrases_special_tokens_and_columns_as_the_runs_own(how: str, model: Analogist, tmp_path) -> None:
    grid, name = PromptGrid(PICTURE, PICTURE[::-1].copy(), PICTURE[:, ::-1].copy()), "up.1.attn.2.cross:probs"
    spill = tmp_path / "spilled" if how == "spilled" else None
    capture = [Capture(name, spill=spill), Capture(name, words=["red", "boat"], label="some", spill=spill)]
    config = model.config.replace(steps=1, guidance=3.0, cam=None)
    own, path = model(grid, PROMPT, config=config, capture=capture, progress=False).maps, tmp_path / "maps.safetensors"
    if how == "spilled":
        path = spill
    else:
        own.save(path)
    if how == "saved twice":
        Maps.load(path).save(path)
    elif how == "written before":
        as_written_before(path)
    loaded, whole = Maps.load(path), own[name].tensor
    tokens = own[name].tokens["text"]
    for word in ("red", "boat", "<start>", "<end>", "<padding>", *(() if how == "written before" else ("a red", "RED  boat"))):
        columns = places_of(tokens, word.lower(), whole.shape[-1])
        assert columns and loaded[name].columns_of(word, "text") == tuple(columns)
        assert torch.equal(loaded[name].sel(branch="text", key=word).tensor, whole[:, 1][..., columns]), word
        for maps in (own, loaded):
            heat = word_heat(maps.select(name), word)
            assert heat.columns == tuple(columns)
            assert torch.equal(heat.values, sum(word_heat(own.select(name), column).values for column in columns)) or len(columns) > 1
    assert torch.equal(loaded[name].sel(branch="text", key=[1, 2]).tensor, whole[:, 1][..., [1, 2]])
    boat = places_of(tokens, "boat", 77)[0]
    for maps in (own, loaded):
        assert torch.equal(maps[name + "@some"].sel(branch="text", key=boat).tensor, whole[:, 1][..., boat])
        with pytest.raises(ValueError, match="were not captured"):
            maps[name + "@some"].sel(key=0)
    for word, message in (("house", "text prompt: .*'house'"), (77, "token column 77: allowed are 0..76"), (1.5, "word 1.5: give a word")):
        with pytest.raises(ValueError, match=message):
            loaded[name].sel(branch="text", key=[word])


def test_a_map_of_a_text_given_as_tensor_is_loaded_with_its_columns(model: Analogist, tmp_path) -> None:
    grid, name = PromptGrid(PICTURE, PICTURE, PICTURE), "up.1.attn.2.cross:probs"
    text, config = model.encode_text("a red boat"), model.config.replace(steps=1, guidance=3.0, cam=None)
    own = model(grid, text=text, config=config, capture=name, progress=False).maps
    own.save(tmp_path / "maps.safetensors")
    loaded = Maps.load(tmp_path / "maps.safetensors")
    assert torch.equal(loaded[name].sel(key=3).tensor, own[name].tensor[..., 3])
    for maps in (own, loaded):
        with pytest.raises(ValueError, match="given as a tensor, so only column numbers"):
            maps[name].sel(branch="text", key="boat")


@pytest.mark.parametrize("way", ["pickle", "torch.save", "deepcopy"])
def test_known_pictures_inversions_steps_and_requests_are_carried(way: str, model: Analogist, result) -> None:
    grid = PromptGrid(PICTURE, PICTURE[::-1].copy(), PICTURE[:, ::-1].copy())
    config = model.config.replace(steps=2)
    known = model.at(grid, PROMPT, b_prime=PICTURE, capture="9.self:probs")
    back = model.invert(grid, PROMPT, b_prime=PICTURE, config=config, refine=0)
    step = next(iter(model.steps(grid, PROMPT, config=config, capture="9.cross:probs")))
    assert torch.equal(WAYS[way](known).eps, known.eps) and list(WAYS[way](known).maps) == list(known.maps)
    assert torch.equal(WAYS[way](back).reconstructed, back.reconstructed)
    assert torch.equal(WAYS[way](step).x0, step.x0)
    for one in (config, Placement.layers(3, 11) - Placement("up.*"), Capture("9.self:probs", query="B'", reduce="mean_heads")):
        assert WAYS[way](one) == one
    assert np.array_equal(np.asarray(WAYS[way](grid).at_size(64).image), np.asarray(grid.at_size(64).image))


def elsewhere(maps: Maps) -> tuple[Maps, list[int]]:
    """What another process does with maps that it was sent."""
    cross = next(m for m in maps.values() if m.site.kind == "cross")
    return maps, list(cross.columns_of("red", "text"))


def test_maps_go_to_another_process_and_back(result) -> None:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        there, columns = pool.apply(elsewhere, (result.maps,))
    assert all(same(there[name], m) for name, m in result.maps.items())
    tokens = next(m for m in result.maps.values() if m.site.kind == "cross").tokens["text"]
    assert columns == [column for column, token in enumerate(tokens) if token == "red"] and len(columns) == 2


@pytest.mark.parametrize(
    ("prompt", "word", "shown"),
    [
        ("a red boat", "RED", ["red"]), ("红色的船在海上", "船", ["船"]), ("红色的船", "红色", ["红", "色"]), ("เรือแดง", "แดง", ["แดง"]),
        ("赤い舟と青い舟", "舟", ["舟", "舟"]),
        ("a cafe\u0301 by night", "café", ["cafe\u0301"]), ("a café by night", "cafe\u0301", ["café"]),
        ("a café", "CAFÉ", ["café"]), ("a caf\u0065\u0301", "cafe", None), ("boathouse", "boat", None), ("red船", "船", ["船"]),
        ("한국 배", "배", ["배"]), ("빨간배", "배", ["배"]), ("ガ", "\u30ab\u3099", ["ガ"]),
        ("a naïve, naïve boat", "nai\u0308ve", ["naïve", "naïve"]),
    ],
)  # fmt: skip
def test_words_are_found_without_spaces_and_in_either_form_of_unicode(prompt: str, word: str, shown: list[str] | None) -> None:
    # Tokens here are runs of letters with their accents, and single letters where a script has no spaces.
    places = [m.span() for m in re.finditer(r"[a-zïé]+(?:\u0301[a-z]*)*|[^\sa-z,]", prompt)]
    if shown is None:
        with pytest.raises(ValueError, match="does not stand in"):
            columns_of_word(prompt, places, word)
        return
    columns = columns_of_word(prompt, places, word)
    found = PromptWords({prompt: tuple(places)}).tokens(prompt)
    assert "".join(found[c] for c in columns) == "".join(shown)


def test_a_prompt_with_half_a_character_is_one_line_that_names_it(model: Analogist) -> None:
    grid = PromptGrid(PICTURE, PICTURE, PICTURE)
    for call in (
        lambda bad: model.text.ids([bad]), lambda bad: model(grid, bad), lambda bad: model(grid, "x", negative_prompt=bad),
        lambda bad: model.encode_text(bad), lambda bad: model.text.positions(bad, "x"),
    ):  # fmt: skip
        for bad in ("a \ud83d boat", "a caf\udce9 boat"):
            with pytest.raises(ValueError, match="prompt.* is not valid Unicode text") as error:
                call(bad)
            assert str(error.value).isprintable()


def test_reprs_are_a_few_lines_without_tensors(result, model: Analogist) -> None:
    grid = PromptGrid(PICTURE, PICTURE, PICTURE)
    known = model.at(grid, PROMPT, b_prime=PICTURE)
    step = next(iter(model.steps(grid, PROMPT, config=model.config.replace(steps=2))))
    many = Maps({f"m{k}": next(iter(result.maps.values())) for k in range(100)}, {f"lost{k}": "why" for k in range(100)})
    placement = Placement.layers([3, 5], steps=range(2, 9), branches=["text"]) | Placement("up.*", heads=[0, 3])
    for one in (result, known, step, result.maps, many, placement, model.config):
        text = repr(one)
        assert "tensor(" not in text and len(text.splitlines()) <= 20 and len(text) <= 2000
    size, cell = model.size, model.size // 2
    shown = (f"1 image of {size} x {size} px", f"B' {cell} x {cell} px")
    for said in (*shown, "seeds 42", repr(PROMPT), "lab", "[1 4 16 16]", f"maps {len(result.maps)}"):
        assert said in repr(result)
    for said in ("t 501", f"{known.loss:.4g}", "maps 0"):
        assert said in repr(known)
    assert "Maps: 100" in repr(many) and "... and 92 more\n" in repr(many) and "... and 92 more lost" in repr(many)


@pytest.mark.parametrize(
    "placement",
    [
        Placement.layers(3, 11), Placement.layers([3, 5, 8]), Placement("up.*", "mid.*"), Placement("up.*", steps=range(3, 7)),
        Placement("up.*", steps=[0, 2, 9], heads=[1]), Placement.layers(0, 16, branches=["text"]), Placement.nowhere(),
        Placement.layers(3, 11) - Placement("up.1.*"), Placement.layers([1]) | Placement("mid.*") | Placement.layers(4, 6),
        (Placement("up.*") | Placement("mid.*")) - Placement.layers([9], steps=[0]), Placement.layers([7], heads=range(5)),
    ],
)  # fmt: skip
def test_a_placement_reads_as_it_is_written(placement: Placement) -> None:
    assert eval(repr(placement), {"Placement": Placement}) == placement


def test_a_notebook_shows_a_small_result_enlarged(result) -> None:
    shown = np.asarray(Image.open(io.BytesIO(result._repr_png_())))
    small = np.asarray(result.grids[0])
    times = shown.shape[0] // small.shape[0]
    assert times > 1 and shown.shape[0] >= 256 and np.array_equal(shown, np.kron(small, np.ones((times, times, 1), np.uint8)))
