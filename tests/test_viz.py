"""Pictures of attention: right pixels in the right places, a scale with its unit, text that is never smaller than 12 px."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image, ImageFont

from analogist.attention.capture.capture import Capture
from analogist.attention.look import drawing as draw
from analogist.attention.look import viz
from analogist.attention.look.colours import DIVERGING, SEQUENTIAL, colourise
from analogist.attention.measure.correspond import best_keys, correspondence
from analogist.attention.measure.flow import FlowTable, flow_table
from analogist.attention.measure.heat import word_heat
from tests.study_runs import sample, shape

NAME = "up.3.attn.0.self:probs"


@pytest.fixture(scope="module")
def maps(tiny_unet):
    return sample(tiny_unet, shape(), [NAME, "up.2.attn.0.self:probs", "up.3.attn.0.cross:probs"], cam=None, stop=1)[1].maps


@pytest.fixture(scope="module")
def image() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8))


def luminance(colours: np.ndarray) -> np.ndarray:
    """Relative luminance of sRGB colours (IEC 61966-2-1)."""
    share = colours / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    return linear @ np.array([0.2126, 0.7152, 0.0722])


def as_seen(colours: np.ndarray) -> np.ndarray:
    """What is left of linear colours without red-green discrimination (protanopia, Viénot et al. 1999)."""
    share = colours / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    return linear @ np.array([[0.11238, 0.11238, 0.004], [0.88762, 0.88762, -0.004], [0.0, 0.0, 1.0]])


def test_the_scale_grows_lighter_all_along_and_keeps_its_steps_without_red_and_green():
    assert (np.diff(luminance(SEQUENTIAL)) > 0).mean() > 0.98 and luminance(SEQUENTIAL)[-1] > 10 * luminance(SEQUENTIAL)[0]
    seen = as_seen(SEQUENTIAL)
    far = np.linalg.norm(seen[::32][:, None] - seen[::32][None], axis=-1)
    assert far[~np.eye(len(far), dtype=bool)].min() > 0.02
    ends = as_seen(DIVERGING)[[0, 255]]
    assert np.linalg.norm(ends[0] - ends[1]) > 0.15
    assert np.argmax(luminance(DIVERGING)) in (127, 128)


def test_values_take_their_colours_from_the_scale_and_nan_is_grey():
    colours = colourise(np.array([[0.0, 0.5, 1.0, 2.0, np.nan]]), 0, 1)
    assert (colours[0, 0] == SEQUENTIAL[0]).all() and (colours[0, 2] == SEQUENTIAL[255]).all()
    assert (colours[0, 1] == SEQUENTIAL[128]).all() and (colours[0, 3] == SEQUENTIAL[255]).all()
    assert (colours[0, 4] == 128).all()
    assert (colourise(np.array([-2.0, 0.0]), -2, 1, diverging=True)[0] == DIVERGING[0]).all()


def test_a_heat_map_shows_every_token_as_a_square(maps):
    values = torch.arange(64.0).reshape(8, 8)
    picture = np.array(viz.heatmap(values, side=320))
    top = 8  # the margin; no title
    tiles = picture[top : top + 320, 8 : 8 + 320]
    for row, column in ((0, 0), (3, 5), (7, 7)):
        square = tiles[row * 40 : (row + 1) * 40, column * 40 : (column + 1) * 40].reshape(-1, 3)
        assert (square == SEQUENTIAL[round(255 * (8 * row + column) / 63)]).all()


def test_pictures_have_a_scale_title_and_unit(maps, monkeypatch):
    written, sizes = [], []
    monkeypatch.setattr(draw, "put_text", lambda image, place, text, *a, **k: written.append(text))
    original = ImageFont.load_default
    monkeypatch.setattr(ImageFont, "load_default", lambda size: sizes.append(size) or original(size))
    viz.heatmap(torch.tensor([[0.0, 0.5]]), title="a title", unit="share")
    assert "0.5" in written and "0.25" in written and "0" in written
    assert min(sizes) >= 12


def test_an_overlay_lies_over_its_region_and_frames_it(image):
    picture = np.array(viz.overlay(image, torch.ones(8, 8), region="A'", region_values="B'", opacity=1.0, side=128))[8:136, 8:136]
    assert (picture[64:, 64:] == SEQUENTIAL[255]).all()
    grey = np.array(image.convert("L"))
    assert (picture[70:120, 5:60, 0] == grey[70:120, 5:60]).all()
    assert (picture[0, 64:] == draw.INK).all() and (picture[1:63, 65] == draw.PAPER).all()
    with pytest.raises(ValueError, match="expected 0..1"):
        viz.overlay(image, torch.ones(8, 8), opacity=2)


def test_looks_at_shows_the_row_of_the_pixel(maps, image):
    picture = np.array(viz.looks_at(maps[NAME], (100, 20), image, title="", side=128))[8:136, 8:136].astype(int)
    row = maps[NAME].tensor.mean((0, 1, 2, 3))[2 * 16 + 12].reshape(16, 16).numpy()
    colours = colourise(row, 0, float(row.max())).astype(int)
    grey = np.array(image.convert("L")).astype(int)
    for y, x in ((0, 0), (9, 3), (15, 15)):
        expected = 0.35 * grey[8 * y + 4, 8 * x + 4] + 0.65 * colours[y, x]
        assert np.abs(picture[8 * y + 4, 8 * x + 4] - expected).max() <= 1.5


def test_all_pictures_are_legible_sizes(maps, image):
    m = maps[NAME]
    field = correspondence(m, "B'", "A'")
    pictures = [
        viz.head_grid(maps["up.2.attn.0.self:probs"].sel(query="B'")),
        viz.sheet([[m.sel(step=0, branch=b, image=0, head=h, query=(0, 0)).grid()[0] for h in (0, 1)] for b in (0, 1)], "ab", "cd"),
        viz.flow_picture(flow_table(m)),
        viz.matrix(torch.randn(3, 4), ["one", "two", "three"], list("abcd"), diverging=True, unit="recovered"),
        viz.arrows(image, field, every=2),
        viz.arrows(image, [((100, 100), match) for match in best_keys(m, (100, 100))]),
        viz.contact_sheet([image, image.crop((0, 0, 30, 60))], ["a long caption that has to be broken into lines", ""]),
        viz.overlay(image, word_heat(maps, "cat"), title="cat"),
        viz.heatmap(m.sel(step=0, branch="text", image=0, head=0, query="B'", key="A'")),
    ]
    for picture in pictures:
        assert isinstance(picture, Image.Image) and 100 < picture.width < 1400 and 100 < picture.height < 1400
        assert len(np.unique(np.array(picture).reshape(-1, 3), axis=0)) > 10


def test_a_sheet_has_one_scale_or_one_a_row(monkeypatch):
    written = []
    monkeypatch.setattr(draw, "put_text", lambda image, place, text, *a, **k: written.append(text))
    rows = [[torch.tensor([[0.0, 0.5]])], [torch.tensor([[0.0, 0.002]])]]
    together = np.array(viz.sheet(rows, ["few tokens", "many"], ["step 0"], side=96))
    assert "0.5" in written and "0.002" not in written
    apart = np.array(viz.sheet(rows, ["few tokens", "many"], ["step 0"], side=96, by_row=True))
    assert "0.5" in written and "0.002" in written

    def full(picture):  # pixels of the greatest colour, in squares of 48 x 48
        return (picture == SEQUENTIAL[255]).all(-1).sum() // (48 * 48)

    assert full(together) == 1 and full(apart) == 2


def test_a_heat_map_of_a_captured_map_says_its_name_and_axes(maps, monkeypatch):
    said = []
    monkeypatch.setattr(viz, "titled", lambda image, title: said.append(title) or image)
    viz.heatmap(maps[NAME].sel(step=0, branch="text", image=0, head=0))
    viz.heatmap(torch.zeros(2, 2))
    assert said == [f"{NAME}: query down, key across", ""]


def test_flow_tables_that_are_compared_share_one_scale():
    tables = [FlowTable(torch.full((4, 4), share)) for share in (0.25, 0.5)]
    same = [np.array(viz.flow_picture(table, title="", high=0.5)) for table in tables]
    for picture, colour in zip(same, (SEQUENTIAL[128], SEQUENTIAL[255]), strict=True):
        assert (picture == colour).all(-1).sum() > 16 * 56 * 44 / 2  # most of the 16 cells, but for the numbers in them


def test_captions_are_broken_where_they_can_and_never_cut():
    text = draw.wrap("up.3.attn.0.self:probs, 49 steps, negative and text", 90)
    assert text.replace("\n", "").replace(" ", "") == "up.3.attn.0.self:probs,49steps,negativeandtext"
    assert max(draw.text_size(line)[0] for line in text.split("\n")) <= 90
    wide = draw.titled(Image.new("RGB", (10, 10)), "unbreakable" * 3)
    assert wide.width >= draw.text_size("unbreakable" * 3)[0]


def test_arrows_start_and_end_where_the_field_says(maps, image):
    values = torch.zeros(256, 256)
    values[:, 0] = 1
    white = Image.new("RGB", (128, 128), (255, 255, 255))
    m = replace(maps[NAME].sel(step=0, branch="text", image=0, head=0), tensor=values)
    picture = np.array(viz.arrows(white, correspondence(m, "B'", "A"), every=8, side=128))
    drawn = picture[-136:-8, 8:136]  # the picture itself, inside the margin
    rows, columns = np.nonzero((drawn != 255).any(-1))
    assert abs(rows.min() - 4) <= 5 and abs(columns.min() - 4) <= 5  # the tip, at the centre of the first token of A
    assert abs(rows.max() - 100) <= 5 and abs(columns.max() - 100) <= 5  # the dot, at the centre of token (12, 12)


@pytest.mark.parametrize(
    ("draw_it", "message"),
    [
        (lambda maps, image: viz.heatmap(torch.zeros(2, 2, 2)), "needs two axes"),
        (lambda maps, image: viz.heatmap(maps[NAME]), "needs two axes"),
        (lambda maps, image: viz.sheet([[torch.zeros(2, 2)]], ["a"], ["b", "c"]), "expected one each"),
        (lambda maps, image: viz.matrix(torch.zeros(2, 2), ["a"], ["b", "c"]), "expected one per row and column"),
        (lambda maps, image: viz.contact_sheet([]), "expected at least one"),
        (lambda maps, image: viz.arrows(image, []), "no correspondences"),
        (lambda maps, image: viz.looks_at(maps["up.3.attn.0.cross:probs"], (0, 0), image), "its keys are text tokens"),
        (lambda maps, image: viz.overlay(image, torch.zeros(2, 2), region="C"), "region 'C'"),
    ],
)
def test_what_cannot_be_drawn_is_an_error(maps, image, draw_it, message):
    with pytest.raises(ValueError, match=message):
        draw_it(maps, image)


def test_a_map_captured_for_one_region_draws_too(tiny_unet, image):
    name = "up.2.attn.0.self:probs"
    m = sample(tiny_unet, shape(), Capture(name, query="B'", key="A'", branches="text"), stop=1)[1].maps[name]
    assert viz.head_grid(m).width > 100
    picture = viz.overlay(image, m.sel(query=(100, 100)).mean("step", "branch", "image", "head").grid()[0], region_values="A'")
    assert picture.height > 100


def test_an_overlay_that_fades_covers_only_what_has_a_value(image):
    values = np.zeros((8, 8))
    values[0, 0], values[4, 4] = 1.0, 0.5
    faded, plain = (viz.overlay(image, values, opacity=0.8, fade=fade, side=128) for fade in (True, False))
    inner = [np.asarray(p.convert("RGB"), dtype=float) for p in (faded, plain)]
    at = draw.GAP  # the margin
    ground = np.asarray(image.convert("L").convert("RGB"), dtype=float)

    def token(pixels, row, column):
        return pixels[at + 16 * row : at + 16 * row + 16, at + 16 * column : at + 16 * column + 16]

    def mixed(row, column, opacity):
        colour = colourise(values[row : row + 1, column : column + 1], 0, 1)[0, 0]
        return opacity * colour + (1 - opacity) * ground[16 * row : 16 * row + 16, 16 * column : 16 * column + 16]

    for row, column, opacity in ((0, 0, 0.8), (4, 4, 0.4), (2, 3, 0.0)):
        assert np.abs(token(inner[0], row, column) - mixed(row, column, opacity)).max() <= 1.5
        assert np.abs(token(inner[1], row, column) - mixed(row, column, 0.8)).max() <= 1.5


def test_only_strong_matches_are_drawn_and_the_title_says_how_many_there_were(maps, image, monkeypatch):
    field = correspondence(maps[NAME], "B", "A")
    shares = field.share.flatten()
    drawn = []
    monkeypatch.setattr(viz, "_arrow", lambda drawing, start, end, colour: drawn.append((start, end)))
    titles = []
    monkeypatch.setattr(viz, "titled", lambda picture, title, *rest: titles.append(title) or picture)
    viz.arrows(image, field, side=128)
    assert len(drawn) == len(shares) and "strongest" not in titles[-1]
    drawn.clear()
    least = float(shares.median())
    viz.arrows(image, field, least=least, side=128)
    kept = field.start.flatten(0, 1)[shares >= least]
    assert sorted(start for start, _ in drawn) == sorted(map(tuple, kept.tolist()))
    assert f"{len(kept)} strongest of {len(shares)} matches" in titles[-1]
    drawn.clear()
    viz.arrows(image, field, strongest=3, side=128)
    best = field.start.flatten(0, 1)[shares.topk(3).indices]
    assert sorted(start for start, _ in drawn) == sorted(map(tuple, best.tolist()))
    with pytest.raises(ValueError, match="none of .* correspondences has a share of .* the greatest is"):
        viz.arrows(image, field, least=1.1)
