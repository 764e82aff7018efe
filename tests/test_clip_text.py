"""Our text encoder against transformers' CLIP: the same encodings bit for bit, the same names, the same refusals."""

import subprocess
import sys
from dataclasses import asdict, fields

import pytest
import torch
import transformers
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from analogist.lab.recipe import TextConfig
from analogist.lab.words import text_encoder
from analogist.models.clip_text import CLIPText, CLIPTextConfig
from tests.checkpoints import PARITY

SMALL = {"vocab_size": 99, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 3, "num_attention_heads": 3,
         "max_position_embeddings": 11, "projection_dim": 7, "bos_token_id": 97, "eos_token_id": 98}  # fmt: skip


def both(projected: bool, **changes) -> tuple[CLIPText, torch.nn.Module]:
    """Ours and transformers' with the same random weights, far from those that training starts from."""
    settings = {**SMALL, **changes}
    theirs = (CLIPTextModelWithProjection if projected else CLIPTextModel)(transformers.CLIPTextConfig(**settings)).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    ours = CLIPText(CLIPTextConfig(**settings), projected=projected).eval()
    ours.load_state_dict({name.removeprefix("text_model."): tensor for name, tensor in theirs.state_dict().items()})
    return ours, theirs


def rows(tokens: int = 11) -> torch.Tensor:
    """Ids with the end token in the middle of the first row, twice in the second, and last in the third."""
    ids = torch.randint(0, 97, (3, tokens))
    ids[0, 4], ids[1, 6], ids[1, 9], ids[2, -1] = 98, 98, 98, 98
    return ids


@torch.no_grad()
@pytest.mark.parametrize("tokens", [11, 10])
@pytest.mark.parametrize("act", ["quick_gelu", "gelu"])
@pytest.mark.parametrize("projected", [False, True])
def test_every_output_is_that_of_transformers(projected, act, tokens):
    ours, theirs = both(projected, hidden_act=act, layer_norm_eps=1e-3)
    ids = rows(tokens)
    got, want = ours(ids), theirs(ids, output_hidden_states=True)
    assert torch.equal(got.last, want.last_hidden_state)
    assert torch.equal(got.penultimate, want.hidden_states[-2])
    if projected:
        assert got.pooled is not None and torch.equal(got.pooled, want.text_embeds)
    else:
        assert got.pooled is None


@torch.no_grad()
def test_the_pooled_vector_is_read_at_the_largest_id_where_a_config_has_the_first_end_token():
    ours, theirs = both(True, eos_token_id=2)
    ids = rows()
    ids[:, 1] = 2
    assert torch.equal(ours(ids).pooled, theirs(ids).text_embeds)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_that_of_transformers(dtype):
    ours, theirs = (model.to(dtype) for model in both(True))
    ids = rows()
    assert torch.equal(ours(ids).last, theirs(ids).last_hidden_state) and ours.dtype == dtype == ours(ids).last.dtype


def test_gradients_are_those_of_transformers():
    ours, theirs = both(False)
    ids = rows()
    ours(ids).last.square().sum().backward()
    theirs(ids).last_hidden_state.square().sum().backward()
    want = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, want[name].grad)


@torch.no_grad()
def test_a_token_reads_no_later_token():
    ours, _ = both(False)
    ids = rows()
    changed = ids.clone()
    changed[:, 6:] = (changed[:, 6:] + 1) % 97
    assert torch.equal(ours(ids).last[:, :6], ours(changed).last[:, :6])
    assert (ours(ids).last[:, 6:] != ours(changed).last[:, 6:]).any(dim=-1).all()


def test_a_config_has_the_defaults_of_transformers():
    theirs = transformers.CLIPTextConfig()
    assert asdict(CLIPTextConfig()) == {field.name: getattr(theirs, field.name) for field in fields(CLIPTextConfig)}


def test_a_config_that_contradicts_itself_is_refused():
    with pytest.raises(ValueError, match="5 heads do not divide a text encoder's width of 512"):
        CLIPTextConfig(num_attention_heads=5)
    with pytest.raises(ValueError, match="hidden_act 'relu' of a text encoder: allowed are quick_gelu, gelu"):
        CLIPTextConfig(hidden_act="relu")


def test_a_checkpoint_is_loaded_and_a_prompt_encoded_without_transformers_networks():
    """They take longer to import than a picture of the lab checkpoint takes to paint."""
    code = f"""
import sys
from analogist import Analogist
Analogist.from_checkpoint({str(PARITY / "checkpoint")!r}, device="cpu").text.encode(["a cat"])
print([name for name in ("transformers.modeling_utils", "torch._dynamo", "torch.distributed.tensor") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300)
    assert done.stdout.split("\n")[0] == "[]"


def test_training_starts_from_weights_of_the_sizes_that_clips_has():
    model = text_encoder(TextConfig(width=64, layers=3, heads=2))
    for layer in model.encoder.layers:
        attention, mlp = layer.self_attn, layer.mlp
        for linear in (attention.q_proj, attention.k_proj, attention.v_proj):
            assert linear.weight.std().item() == pytest.approx(64**-0.5, rel=0.1)
        assert mlp.fc1.weight.std().item() == pytest.approx(128**-0.5, rel=0.1)
        for linear in (attention.out_proj, mlp.fc2):  # the six outputs that the stream sums
            assert linear.weight.std().item() == pytest.approx((64 * 6) ** -0.5, rel=0.1)
        assert not any(linear.bias.any() for linear in (attention.q_proj, attention.out_proj, mlp.fc1, mlp.fc2))
    for table in (model.embeddings.token_embedding, model.embeddings.position_embedding):
        assert table.weight.std().item() == pytest.approx(0.02, rel=0.1)
