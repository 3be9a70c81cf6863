"""Seeds that attend in Hugging Face's own models, small and random, leave out what the models' masks leave out.

They need `transformers`, which is no dependency of this project.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from esper.kasmina.executor.fold.export import GrownOfForm
from tests.unit.kasmina.executor.graft.test_masks import hung

transformers = pytest.importorskip("transformers")
from tests.unit.kasmina.executor.pretrained.test_grown_transformers import FAMILIES  # noqa: E402 - it skips itself too

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.filterwarnings("default")]

CASES = [
    ("bert", "bert.encoder.layer.0", "left"),
    ("bert", "bert.encoder.layer.1.intermediate", "right"),
    ("gpt2", "transformer.h.0", "right"),
    ("gpt2", "transformer.h.1.mlp.act", "left"),
    ("llama", "model.layers.0", "left"),
    ("llama", "model.layers.1.mlp", "right"),
    ("opt", "model.decoder.layers.0", "right"),
]
KEPT = torch.arange(6) < torch.tensor([3, 6, 1, 5])[:, None]


def width_at(path: str) -> int:
    return 24 if path.endswith("intermediate") else 64 if path.endswith("act") else 16


def made(family: str, attention: str) -> Any:
    config, model, options = FAMILIES[family]
    torch.manual_seed(0)
    settings = getattr(transformers, config)(**options, attn_implementation=attention)
    return getattr(transformers, model)(settings).double().eval()


def heard(network: Any, graft: Any, tokens: Tensor, kept: Tensor) -> list[Tensor]:
    """Logits of real positions, and the gradients of their squares."""
    parameters = [*network.parameters(), *graft.module.parameters()]
    places = (kept.long().cumsum(1) - 1).clamp(min=0)
    logits = network(input_ids=tokens, attention_mask=kept.long(), position_ids=places, use_cache=False).logits[kept]
    gradients = torch.autograd.grad(logits.square().sum(), parameters, allow_unused=True)
    return [logits.detach(), *(gradient for gradient in gradients if gradient is not None)]


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize(("family", "path", "side"), CASES)
def test_nothing_real_depends_on_what_stands_in_padding(family, path, side, attention):
    if (family, side, attention) == ("llama", "left", "eager"):
        pytest.skip("its softmax in float32 makes NaN of float64's least number where a position sees none")
    network = made(family, attention)
    graft = hung(network, path, width_at(path), is_causal=family != "bert")
    kept = KEPT if side == "right" else KEPT.flip(1)
    tokens = torch.randint(1, 7, kept.shape, generator=torch.Generator().manual_seed(2))
    first, second = (heard(network, graft, tokens.where(kept, word), kept) for word in (0, 5))
    assert graft.masks.reached_seed
    # The word that stands in padding has a gradient neither: nothing real has read it.
    for mine, theirs in zip(first, second, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-10)
    graft.masks.reached_seed = False
    graft.is_muted = True
    assert not torch.allclose(first[0], heard(network, graft, tokens, kept)[0])


@pytest.mark.parametrize(("family", "path", "side"), [CASES[1], CASES[2], CASES[5]])
def test_a_network_with_a_kept_seed_masks_after_reload(family, path, side, tmp_path):
    network = made(family, "sdpa")
    graft = hung(network, path, width_at(path), is_causal=family != "bert")
    graft.detach()
    tokens = torch.randint(1, 7, KEPT.shape, generator=torch.Generator().manual_seed(2))
    torch.save(GrownOfForm(network, [graft]), tmp_path / "network.pt")
    loaded = torch.load(tmp_path / "network.pt", weights_only=False)
    asked = {"attention_mask": KEPT.long(), "use_cache": False}
    with torch.no_grad():
        wanted = loaded(input_ids=tokens, **asked).logits[KEPT]
        torch.testing.assert_close(loaded(input_ids=tokens.where(KEPT, 0), **asked).logits[KEPT], wanted)
