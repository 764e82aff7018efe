"""The UNet as a whole: size, shapes, arguments, and that images of a batch do not see each other."""

import pytest
import torch

from analogist.models.control import CAM, SAC, AttentionControl
from analogist.models.placement import Placement
from analogist.models.unet import UNet, UNetConfig
from tests.devices import device, tolerance
from tests.small import TINY_UNET, Looking, relative, unet_inputs

pytestmark = pytest.mark.device
SD2 = {"heads": (5, 10, 20, 20), "text_width": 1024}


@pytest.mark.parametrize("config, parameters", [({}, 859_535_364), (SD2, 865_925_124)])
def test_the_full_size_networks_have_the_published_number_of_parameters(config: dict, parameters: int) -> None:
    with torch.device("meta"):
        unet = UNet(UNetConfig(**config))
    assert sum(parameter.numel() for parameter in unet.parameters()) == parameters
    assert not list(unet.buffers())


def test_the_full_size_network_computes_shapes_on_the_meta_device() -> None:
    with torch.device("meta"):
        unet = UNet(UNetConfig())
        x, text = torch.empty(2, 9, 64, 96), torch.empty(2, 77, 768)
        t = torch.tensor([501, 501])
        assert unet(x, t, text).shape == (2, 4, 64, 96)


@pytest.mark.parametrize("attention", ["explicit", "fused"])
def test_permuting_the_images_of_a_batch_permutes_the_output(tiny_unet, attention: str) -> None:
    """The settings by image go with them."""
    x, t, text = unet_inputs(batch=6)
    settings = [SAC(), SAC(Placement("up.*"), scale=0.7), None]
    order = [2, 0, 1]
    rows = order + [3 + i for i in order]  # the batch is (branch image)
    plain = tiny_unet(x, t, text, AttentionControl(t=t, images=3, sac=settings, cam=CAM(), attention=attention))
    control = AttentionControl(t=t, images=3, sac=[settings[i] for i in order], cam=CAM(), attention=attention)
    assert relative(tiny_unet(x[rows], t, text[rows], control), plain[rows]) < tolerance("the UNet in another batch")


def test_an_image_alone_is_the_image_in_a_batch(tiny_unet) -> None:
    x, t, text = unet_inputs(batch=6)
    together = tiny_unet(x, t, text, AttentionControl(t=t, images=3, sac=SAC(), cam=CAM()))
    for image in range(3):
        rows = [image, 3 + image]
        alone = tiny_unet(x[rows], t, text[rows], AttentionControl(t=t, sac=SAC(), cam=CAM()))
        assert relative(alone, together[rows]) < tolerance("the UNet in another batch")


def test_the_text_branch_alone_is_the_text_half_of_a_guided_batch(tiny_unet) -> None:
    x, t, text = unet_inputs()
    only_text = Placement.layers(3, 11, branches=["text"])
    settings = {"t": t, "sac": SAC(only_text), "cam": CAM(only_text)}
    both = tiny_unet(x, t, text, AttentionControl(branches=2, **settings))
    alone = tiny_unet(x[1:], t, text[1:], AttentionControl(branches=1, **settings))
    assert relative(alone, both[1:]) < tolerance("the UNet in another batch")


def test_the_time_may_be_a_number_or_a_tensor(tiny_unet) -> None:
    x, _, text = unet_inputs()
    as_number = tiny_unet(x, 501, text)
    for t in (torch.tensor(501), torch.tensor([501]), torch.tensor([501, 501])):
        assert torch.equal(tiny_unet(x, t, text), as_number)
    mixed = tiny_unet(x, torch.tensor([501, 1]), text)
    assert relative(mixed[0], as_number[0]) < tolerance("the UNet in another batch") and relative(mixed[1], as_number[1]) > 0.01


def test_text_prepared_once_gives_what_text_gives(tiny_unet) -> None:
    x, t, text = unet_inputs()
    prepared = tiny_unet.prepare_text(text)
    assert sorted(prepared.keys_values) == sorted(site.name for site in tiny_unet.sites if site.kind == "cross")
    control = AttentionControl(t=t, cam=CAM())
    assert torch.equal(tiny_unet(x, t, prepared, control), tiny_unet(x, t, text, control))


def test_without_control_nothing_acts(tiny_unet) -> None:
    x, t, text = unet_inputs()
    assert torch.equal(tiny_unet(x, t, text), tiny_unet(x, t, text, AttentionControl(t=t)))


def test_skips_seen_on_the_way_up_are_the_outputs_seen_on_the_way_down(tiny_unet) -> None:
    x, t, text = unet_inputs()
    look = Looking(points=("skip", "out"))
    tiny_unet(x, t, text, AttentionControl(t=t, tap=look))
    assert torch.equal(look.seen["up.0.res.1.block:skip"], look.seen["down.3.res.0.block:out"])
    assert torch.equal(look.seen["up.3.res.1.block:skip"], look.seen["down.0.attn.0.block:out"])
    assert torch.equal(look.seen["up.2.res.0.block:skip"], look.seen["down.1.attn.1.block:out"])


def test_an_edit_of_a_skip_or_a_hidden_state_is_used(tiny_unet) -> None:
    class Erasing(Looking):
        def __call__(self, tensor, at):
            return torch.zeros_like(tensor)

    x, t, text = unet_inputs()
    plain = tiny_unet(x, t, text)
    for place in ("up.2.res.0.block:skip", "up.2.res.0.block:x", "mid.0.attn.0.block:out", "down.0.res.0.block:out"):
        site, _, point = place.partition(":")
        erased = tiny_unet(x, t, text, AttentionControl(t=t, tap=Erasing(points=(point,), sites=(site,))))
        assert relative(erased, plain) > 1e-3, place


def test_inputs_are_never_changed(tiny_unet) -> None:
    x, t, text = unet_inputs()
    before = x.clone(), text.clone()
    for attention in ("explicit", "fused"):
        tiny_unet(x, t, text, AttentionControl(t=t, sac=SAC(), cam=CAM(), attention=attention))
    assert torch.equal(x, before[0]) and torch.equal(text, before[1])


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"x": (2, 4, 16, 16)}, r"x \(2, 4, 16, 16\): give \[batch 9 h w\] with h and w multiples of 8"),
        ({"x": (2, 9, 16, 20)}, "multiples of 8"),
        ({"x": (9, 16, 16)}, r"give \[batch 9 h w\]"),
        ({"text": (2, 7, 13)}, r"text \(2, 7, 13\): give \[batch token channel\] with 12 channels"),
        ({"text": (7, 12)}, "give .batch token channel."),
        ({"text": (1, 7, 12)}, "text for a batch of 1, but x has 2"),
        ({"control": AttentionControl(images=3)}, "batch of 2, but control says 2 branches x 3 images"),
        ({"x": (2, 9, 24, 24), "control": AttentionControl(sac=SAC())}, "a token map of 3x3 does not split into 2 rows"),
        ({"t": torch.tensor([1, 2, 3])}, r"t of shape \(3,\): give one time, or one per row of the batch \(2\)"),
    ],
)
@pytest.mark.parametrize("attention", ["explicit", "fused"])
def test_shapes_that_do_not_fit_are_an_error_that_says_what_does(tiny_unet, changes: dict, message: str, attention: str) -> None:
    x, t, text = unet_inputs()
    changes = {name: torch.zeros(value, device=device()) if isinstance(value, tuple) else value for name, value in changes.items()}
    given = {"x": x, "t": t, "text": text, "control": AttentionControl(t=t, attention=attention), **changes}
    with pytest.raises(ValueError, match=message):
        tiny_unet(**given)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"channels": (16, 24, 30, 32)}, "30 channels must be a multiple of 8 norm groups"),
        ({"heads": (2, 5, 4, 4)}, "24 channels must be a multiple of 8 norm groups and of 5 heads"),
        ({"depth": (1, 1, 1)}, "expected one entry per level in each"),
    ],
)
def test_an_impossible_geometry_is_an_error(changes: dict, message: str) -> None:
    fields = {name: getattr(TINY_UNET, name) for name in ("channels", "heads", "depth", "norm_groups")}
    with pytest.raises(ValueError, match=message):
        UNetConfig(**{**fields, **changes})


@pytest.mark.parametrize("t", [-1, 1000, torch.tensor([3, 1000])])
def test_times_outside_the_schedule_are_an_error_that_names_it(tiny_unet, t):
    x, text = torch.zeros(2, 9, 16, 16, device=device()), torch.zeros(2, 7, tiny_unet.config.text_width, device=device())
    with pytest.raises(ValueError, match="run from 0 to 999"):
        tiny_unet(x, t, text)
    tiny_unet(x, 999, text)
