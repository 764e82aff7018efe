"""Numbers of numpy and torch are numbers wherever Python's are; a seed means one picture whatever torch's defaults are."""

import ast
import json
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch

from analogist import SAC, Analogist, AnalogistConfig, Capture, Placement, PromptGrid, SamplingConfig, every
from analogist.attention.capture.reduce import TopK
from analogist.attention.edit.edits import scale
from analogist.checkpoints.loras import as_list
from analogist.experiments.design.inputs import lab_inputs
from analogist.experiments.design.study import Study
from analogist.grid.layout import resolve_size
from analogist.models.numbers import plain
from analogist.run.seeds import Randomness, check_seeds
from analogist.study import measures
from tests.test_one_place import PRODUCT

WHOLE: dict[str, Callable[[int], object]] = {
    "numpy int64": np.int64, "numpy int32": np.int32, "numpy uint8": np.uint8, "numpy array of no dimension": np.array,
    "torch": torch.tensor, "torch int16": lambda n: torch.tensor(n, dtype=torch.int16),
}  # fmt: skip
REAL: dict[str, Callable[[float], object]] = {
    "numpy float64": np.float64, "numpy float32": np.float32, "numpy float16": np.float16, "torch": torch.tensor,
    "torch float64": lambda x: torch.tensor(x, dtype=torch.float64), "numpy int64": lambda x: np.int64(round(x)),
    "bfloat16": lambda x: torch.tensor(x, dtype=torch.bfloat16),
}  # fmt: skip
PICTURE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def model() -> Analogist:
    return Analogist.from_checkpoint(device="cpu")


@pytest.fixture(scope="module")
def grid() -> PromptGrid:
    return PromptGrid(PICTURE, PICTURE[::-1].copy(), PICTURE[:, ::-1].copy())


WHERE_WHOLE: dict[str, Callable[[Callable], object]] = {
    "steps": lambda n: SamplingConfig(steps=n(20)),
    "a configuration's JSON": lambda n: json.dumps(AnalogistConfig().replace(steps=n(7)).to_json()),
    "layers": lambda n: Placement.layers(n(3), n(11)),
    "a list of layers": lambda n: Placement.layers([n(3), n(5)], steps=[n(0), n(2)], heads=[n(1)], branches=[n(1)]),
    "a placement's steps": lambda n: Placement("up.*", steps=(n(0), n(2)), heads=(n(1),), branches=(n(0),)),
    "seed and images": lambda n: check_seeds(n(42), n(3)),
    "a size": lambda n: resolve_size(n(64), 2),
    "height and width": lambda n: resolve_size((n(64), n(96)), 2),
    "rows of a ready grid": lambda n: PromptGrid.from_image(PICTURE, n(64), rows=n(2), b_size=(n(5), n(6))).boxes(),
    "every": lambda n: every(n(10), start=n(1)),
    "a capture": lambda n: Capture(
        "9.self:probs", layers=n(9), steps=[n(0), n(1)], branches=n(1), images=n(0), heads=[n(0), n(3)], max_bytes=n(100)
    ),
    "a capture of a pixel and a column": lambda n: Capture("9.*:probs", query=(n(3), n(4)), words=n(2), steps=n(1)),
    "top k": lambda n: TopK(n(4)),
    "seeds of a study": lambda n: Study(name="s", seeds=[n(1), n(5)], images=n(2), batch=n(4), group=n(8), size=n(64)),
    "levels of a study": lambda n: Study(name="s", factors={"steps": [n(4), n(8)], "sac.heads": [[n(0), n(1)]], "windows": [n(2)]}),
    "a lab drawing": lambda n: [one.name for one in lab_inputs(["recolour"], count=n(1), seed=n(3), size=n(64))],
    "the scale of a LoRA": lambda n: as_list(("a.safetensors", n(1))),
}  # fmt: skip


@pytest.mark.parametrize("kind", WHOLE)
@pytest.mark.parametrize("where", WHERE_WHOLE)
def test_whole_numbers_of_every_kind_are_numbers(where: str, kind: str) -> None:
    expected, given = WHERE_WHOLE[where](int), WHERE_WHOLE[where](WHOLE[kind])
    assert given == expected
    assert repr(given) == repr(expected)  # nothing of numpy or torch is kept


WHERE_REAL: dict[str, Callable[[Callable], object]] = {
    "strength": lambda x: SamplingConfig(strength=x(1.0)),
    "guidance": lambda x: SamplingConfig(guidance=x(7.5)),
    "eta": lambda x: SamplingConfig(eta=x(0.25)),
    "the scale of SAC": lambda x: SAC(scale=x(1.25)),
    "scales by pair": lambda x: SAC(scale=(x(1.25), x(0.5))),
    "levels of a study": lambda x: Study(name="s", factors={"sac.scale": [x(1.25), x(0.5)]}),
    "the scale of a LoRA": lambda x: as_list([("a.safetensors", x(0.5))]),
    "the factor of an edit": lambda x: scale(x(1.5)).change(torch.ones(2), None).tolist(),
    "a box": lambda x: Capture("9.self:probs", query=(x(0.5), x(1.5), x(8.0), x(9.0))),
}  # fmt: skip


@pytest.mark.parametrize("kind", REAL)
@pytest.mark.parametrize("where", WHERE_REAL)
def test_real_numbers_of_every_kind_are_numbers(where: str, kind: str) -> None:
    # All values here are exact in every type but whole numbers, which round them to what they hold.
    expected = WHERE_REAL[where](lambda x: float(round(x)) if kind == "numpy int64" else x)
    assert WHERE_REAL[where](REAL[kind]) == expected


def test_arrays_and_tensors_are_lists_where_lists_are_taken(model: Analogist, grid: PromptGrid) -> None:
    for numbers in (np.arange(3, 6), torch.arange(3, 6)):
        assert Placement.layers(numbers) == Placement.layers([3, 4, 5])
        assert Placement("up.*", steps=numbers, heads=numbers) == Placement("up.*", steps=[3, 4, 5], heads=[3, 4, 5])
        assert Capture("9.self:probs", steps=numbers, heads=numbers) == Capture("9.self:probs", steps=(3, 4, 5), heads=(3, 4, 5))
        assert Study(name="s", seeds=numbers) == Study(name="s", seeds=[3, 4, 5])
    for scales in (np.array([0.5, 1.5]), torch.tensor([0.5, 1.5])):
        assert SAC(scale=scales) == SAC(scale=(0.5, 1.5))
        assert Study(name="s", factors={"sac.scale": scales}) == Study(name="s", factors={"sac.scale": [0.5, 1.5]})
    assert SAC(mirror=np.bool_(False)) == SAC(mirror=False)


@pytest.mark.parametrize(
    "wrong", [np.float64(3.5), np.bool_(True), torch.tensor(True), np.nan, np.array([1, 2]), np.int64(-1), torch.ones(1, 1), np.str_("3")]
)  # fmt: skip
def test_what_is_no_whole_number_stays_an_error(wrong: object) -> None:
    with pytest.raises(ValueError, match="steps"):
        SamplingConfig(steps=wrong)
    with pytest.raises(ValueError, match="seed"):
        check_seeds(wrong, 1)


def test_what_is_no_number_comes_back_as_it_is() -> None:
    table = np.zeros((2, 2))
    assert plain(table) is table
    for one in ("text", None, range(3), PICTURE, Capture("9.self:probs")):
        assert plain(one) is one
    assert plain({"a": [np.int64(1), (torch.tensor(2.0),)]}) == {"a": [1, (2.0,)]}


def test_a_call_with_numbers_of_numpy_and_torch_is_the_call(model: Analogist, grid: PromptGrid) -> None:
    config = model.config.replace(steps=3)
    capture = Capture("9.self:probs", steps=0)
    expected = model(grid, "red", seed=7, images=2, config=config, capture=capture, batch=2, progress=False)
    given = model(
        grid, "red", seed=np.int64(7), images=torch.tensor(2), batch=np.int32(2), config=model.config.replace(steps=np.int16(3)),
        capture=Capture("9.self:probs", steps=np.int64(0)), progress=False,
    )  # fmt: skip
    assert torch.equal(given.latents, expected.latents)
    assert json.loads(json.dumps(given.record)) == json.loads(json.dumps(expected.record))
    look = expected.maps["9.self:probs" if "9.self:probs" in expected.maps else next(iter(expected.maps))]
    for n in WHOLE.values():
        part = look.sel(step=n(0), branch=n(1), image=n(0), head=[n(0), n(1)], query=n(5), key="A'")
        assert torch.equal(part.tensor, look.sel(step=0, branch=1, image=0, head=[0, 1], query=5, key="A'").tensor)
    known = model.at(grid, "red", b_prime=PICTURE, t=501, seed=1)
    for n in (np.int64, torch.tensor):
        assert torch.equal(model.at(grid, "red", b_prime=PICTURE, t=n(501), seed=n(1)).eps, known.eps)


@pytest.fixture
def torch_defaults() -> Iterator[None]:
    yield
    torch.set_default_dtype(torch.float32)
    torch.set_default_device(None)


def set_defaults(change: str) -> None:
    if change == "device":
        torch.set_default_device("meta")  # whatever does not say its device has no numbers then
    elif change == "global seed":
        torch.manual_seed(5)
    elif change == "global draws":
        torch.randn(10)
    else:
        torch.set_default_dtype(getattr(torch, change))


CHANGES = ["float64", "float16", "bfloat16", "global seed", "global draws", "device"]


@pytest.mark.parametrize("change", CHANGES)
def test_a_seed_paints_one_picture_whatever_torchs_defaults_are(
    change: str, model: Analogist, grid: PromptGrid, torch_defaults: None
) -> None:
    config = model.config.replace(steps=2, eta=0.5)
    capture = Capture("9.self:probs", steps=[0], query="B'", reduce="mean_heads")

    def everything(of: Analogist) -> list[torch.Tensor]:
        run = of(grid, "red", seed=42, config=config, capture=capture, progress=False)
        shared = of(grid, "red", generator=torch.Generator("cpu").manual_seed(1), config=config, progress=False)
        known = of.at(grid, "red", b_prime=PICTURE)
        steps = list(of.steps(grid, "red", config=config, edit={"9.self:logits": scale(1.1)}, progress=False))
        inverted = of.invert(grid, "red", b_prime=PICTURE, config=config.replace(eta=0.0), progress=False)
        z = of.start(grid, "red", config=config)
        return [
            run.latents, run.pixels, next(iter(run.maps.values())).tensor, shared.latents, known.eps, known.x0, steps[-1].z_t, z,
            inverted.latents[-1], inverted.reconstructed,
        ]  # fmt: skip

    expected = everything(model)
    set_defaults(change)
    for given in (everything(model), everything(Analogist.from_checkpoint(device="cpu"))):
        for one, other in zip(given, expected, strict=True):
            assert one.dtype == other.dtype
            assert torch.equal(one, other)


@pytest.mark.parametrize("change", ["float64", "device"])
def test_a_study_measures_the_same_whatever_torchs_defaults_are(
    change: str, model: Analogist, grid: PromptGrid, torch_defaults: None
) -> None:
    def at(prompt: str) -> Callable:
        return lambda **looks: model.at(grid, prompt, b_prime=PICTURE, **looks)

    def everything() -> list[torch.Tensor]:
        heads = measures.ablate_sweep(at("red"), points="9.self:head_out", heads=True, how="zero")
        shares = measures.contribution(at("red"), selector="9.self", heads=True)
        found = measures.attribution_patch(at("red"), at(""), points="9.self:head_out", heads=True)
        return [heads.effect, shares.values, found.effect]

    expected = everything()
    set_defaults(change)
    for one, other in zip(everything(), expected, strict=True):
        assert one.dtype == other.dtype and one.device == other.device and torch.equal(one, other)


# Functions of torch that put a new tensor on the default device.
FACTORIES = frozenset(
    "tensor as_tensor asarray scalar_tensor zeros ones empty full eye arange linspace logspace rand randn randint randperm "
    "empty_strided tril_indices triu_indices".split()
)


def test_every_new_tensor_of_the_product_says_its_device() -> None:
    """Left out is the making of the lab checkpoint, which is run from its own command."""
    silent = []
    for path in PRODUCT:
        if "lab" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute) or node.func.attr not in FACTORIES:
                continue
            if ast.unparse(node.func.value) == "torch" and not any(word.arg in ("device", None) for word in node.keywords):
                silent.append(f"{path.name}:{node.lineno}: {ast.unparse(node)}")
    assert not silent, "\n".join(silent)


@pytest.mark.parametrize("change", CHANGES)
def test_noise_is_that_of_one_float32_generator_per_image_whatever_torchs_defaults_are(change: str, torch_defaults: None) -> None:
    expected = []
    for seed in (3, 4):
        own = torch.Generator("cpu").manual_seed(seed)
        expected.append([torch.randn(1, 4, 2, 2, generator=own, dtype=torch.float32) for _ in range(4)])
    shared = torch.randn(2, 4, 2, 2, generator=torch.Generator("cpu").manual_seed(9), dtype=torch.float32)
    set_defaults(change)
    randomness = Randomness((3, 4))
    draws = randomness.draw(4, 2, 2)
    parts = [draws.noise, draws.image, draws.masked, randomness.step_noise(draws.noise)]
    assert all(part.dtype == torch.float32 and part.device.type == "cpu" for part in parts)
    for k in range(2):
        assert all(torch.equal(part[k : k + 1], expected[k][i]) for i, part in enumerate(parts))
    assert torch.equal(Randomness((0, 0), torch.Generator("cpu").manual_seed(9)).draw(4, 2, 2).noise, shared)


def test_drawing_leaves_the_global_generator_alone(model: Analogist, grid: PromptGrid) -> None:
    state = torch.random.get_rng_state()
    model(grid, "red", config=model.config.replace(steps=2, eta=1.0), progress=False)
    assert torch.equal(torch.random.get_rng_state(), state)
