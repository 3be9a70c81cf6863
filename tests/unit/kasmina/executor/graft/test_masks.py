"""A seed that attends leaves out what its host's attention leaves out, however the host says what that is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import Any
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from esper.core.errors import GraftFailed
from esper.kasmina.executor.blueprints import build_seed
from esper.kasmina.executor.fold.export import plain
from esper.kasmina.executor.graft.blend import Blend
from esper.kasmina.executor.graft.graft import Graft, SeedPlan
from esper.kasmina.executor.graft.padding import sign_of_padding
from esper.kasmina.executor.passes import compiled
from esper.kasmina.executor.slots.slot import Slot
from esper.leyline import SlotKind
from esper.tolaria.export.program import traced
from tests.drilled import drilled
from tests.unit.kasmina.executor.conftest import CLASSES, DEVICE, ZERO_OUTPUT, ToyTask

POSITIONS, FEATURES = 6, 8


class Attending(nn.Module):
    """Attention written out, under an additive mask [batch, 1, 1, positions], as Hugging Face's blocks are."""

    def __init__(self) -> None:
        super().__init__()
        self.inward, self.outward = nn.Linear(FEATURES, 3 * FEATURES), nn.Linear(FEATURES, FEATURES)
        self.fc1, self.act, self.fc2 = nn.Linear(FEATURES, 12), nn.GELU(), nn.Linear(12, FEATURES)

    def forward(self, hidden: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        query, key, value = self.inward(hidden).unsqueeze(1).chunk(3, -1)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=attention_mask)
        hidden = hidden + self.outward(mixed.squeeze(1))
        return hidden + self.fc2(self.act(self.fc1(hidden)))


class Pooled(nn.Module):
    """The mean over what isn't padding, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(FEATURES, CLASSES)

    def pooled(self, hidden: Tensor, kept: Tensor) -> Tensor:
        mean = hidden.masked_fill(~kept[..., None], 0.0).sum(1) / kept.sum(1, keepdim=True).clamp(min=1)
        return self.head(mean)


def called(block: nn.Module, hidden: Tensor, mask: Tensor | None) -> Tensor:
    return block(hidden, attention_mask=mask)


class Keyed(Pooled):
    """`forward(**batch)`: ones are kept, and blocks are called with what is added to their products."""

    def __init__(self, run: Callable[..., Tensor] = called) -> None:
        super().__init__()
        self.layer = nn.ModuleList([Attending(), Attending()])
        self.run = run

    def forward(self, features: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        kept = features.new_ones(features.shape[:2]) if attention_mask is None else attention_mask
        lowest = torch.finfo(features.dtype).min
        added = None if attention_mask is None else (1.0 - kept[:, None, None].to(features)) * lowest
        for block in self.layer:
            features = self.run(block, features, added)
        return self.pooled(features, kept.bool())


class Encoded(Pooled):
    """A tuple of arguments, and torch's own encoder."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(FEATURES, 2, 12, dropout=0.0, activation=nn.ReLU(), batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)

    def forward(self, features: Tensor, is_padding: Tensor) -> Tensor:
        return self.pooled(self.encoder(features, src_key_padding_mask=is_padding), ~is_padding)


class OwnBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(FEATURES, 2, batch_first=True)
        self.fc1, self.act, self.fc2 = nn.Linear(FEATURES, 12), nn.ReLU(), nn.Linear(12, FEATURES)

    def forward(self, hidden: Tensor, pad: Tensor) -> Tensor:
        hidden = hidden + self.attention(hidden, hidden, hidden, key_padding_mask=pad, need_weights=False)[0]
        return hidden + self.fc2(self.act(self.fc1(hidden)))


class Named(Pooled):
    """Names of its own, down to torch's attention."""

    def __init__(self) -> None:
        super().__init__()
        self.before = nn.Sequential(nn.Linear(FEATURES, FEATURES), nn.ReLU())
        self.blocks = nn.ModuleList([OwnBlock(), OwnBlock()])

    def forward(self, features: Tensor, pad: Tensor) -> Tensor:
        features = self.before(features)
        for block in self.blocks:
            features = block(features, pad)
        return self.pooled(features, ~pad)


Dress = Callable[[Tensor, Tensor], Any]
IN_NAMES: Dress = lambda features, kept: {"features": features, "attention_mask": kept.long()}  # noqa: E731
IN_PLACES: Dress = lambda features, kept: (features, ~kept)  # noqa: E731
HOSTS: dict[str, tuple[type[nn.Module], Dress, tuple[str, ...]]] = {
    "names": (Keyed, IN_NAMES, ("layer.0", "layer.0.act", "layer.1.act")),
    "torch's encoder": (Encoded, IN_PLACES, ("encoder.layers.0", "encoder.layers.1.activation")),
    "names of its own": (Named, IN_PLACES, ("blocks.0", "blocks.0.act", "blocks.1.act")),
}
CASES = [(host, path) for host, (_, _, paths) in HOSTS.items() for path in paths]


class MaskedTask(ToyTask):
    """Sequences of several lengths; `noise` stands in the padding."""

    def __init__(self, dress: Dress, noise: float = 0.0) -> None:
        super().__init__((POSITIONS, FEATURES))
        self.dress = dress
        lengths = torch.arange(len(self.inputs), device=DEVICE) % (POSITIONS - 1) + 2
        self.kept = torch.arange(POSITIONS, device=DEVICE) < lengths[:, None]
        self.inputs = torch.where(self.kept[..., None], self.inputs, noise * self.inputs.flip(0) + noise)

    def _rows(self, rows: Any) -> Any:
        return self.dress(self.inputs[rows], self.kept[rows])

    def judge_batches(self) -> Any:
        for start in (64, 80):
            yield self._rows(slice(start, start + 16)), self.targets[start : start + 16]

    def probe_inputs(self) -> Any:
        return self._rows(slice(8))

    def batch(self, step: int) -> Any:
        order = torch.randperm(64, generator=torch.Generator().manual_seed(step))[:16]
        return self._rows(order), self.targets[order]


def host_of(name: str) -> nn.Module:
    torch.default_generator.manual_seed(2)
    return HOSTS[name][0]()


def slot_at(path: str, features: int) -> Slot:
    return Slot(
        slot_id=f"residual_linear:{path}-{path}",
        kind=SlotKind.SLOT_KIND_RESIDUAL_LINEAR,
        read_path=path,
        write_path=path,
        order=0,
        dims=3,
        features=features,
        read_positions=POSITIONS,
        write_positions=POSITIONS,
    )


def hung(model: nn.Module, path: str, features: int, *, is_causal: bool = False) -> Graft:
    """A seed that attends and changes the outputs, in the host."""
    slot = replace(slot_at(path, features), is_causal=is_causal)
    seed = build_seed(model, slot, "attention.self", {"heads": 2, "head_size": 3}, initialization_seed=3)
    torch.default_generator.manual_seed(5)
    nn.init.normal_(seed.outward.weight)
    plan = SeedPlan(
        seed_id="s1", slot_id=slot.slot_id, blueprint_id="attention.self", factory="attention.self", parameters=(),
        initialization_seed=3,
    )  # fmt: skip
    graft = Graft(plan, slot, seed, Blend(config=ZERO_OUTPUT, start_step=-100), is_isolated=False)
    graft.attach(model, [graft])
    return graft


def width_at(path: str) -> int:
    return 12 if "act" in path else FEATURES


def outputs_and_gradients(model: nn.Module, graft: Graft, inputs: Any) -> list[Tensor]:
    """Of the host's real outputs, with gradients of every parameter, the seed's included."""
    parameters = [*model.parameters(), *graft.module.parameters()]
    outputs = model(**inputs) if isinstance(inputs, dict) else model(*inputs)
    gradients = torch.autograd.grad(outputs.square().sum(), parameters, allow_unused=True)
    return [outputs.detach(), *(gradient for gradient in gradients if gradient is not None)]


@pytest.mark.parametrize(("name", "path"), CASES)
@given(data=st.data())
@settings(max_examples=8)
def test_nothing_real_depends_on_what_stands_in_padding(name, path, data):
    model = host_of(name).double()
    graft = hung(model, path, width_at(path))
    # Torch's own attention gives NaN where nothing is kept; the other host may have rows of padding alone.
    least = 0 if name == "names" else 1
    lengths = data.draw(st.lists(st.integers(least, POSITIONS), min_size=2, max_size=4))
    lengths[0] = min(lengths[0], POSITIONS - 1)
    is_left = data.draw(st.booleans())
    kept = torch.arange(POSITIONS) < torch.tensor(lengths)[:, None]
    kept = kept.flip(1) if is_left else kept
    draw = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    features = torch.randn(*kept.shape, FEATURES, generator=draw, dtype=torch.float64)
    other = torch.where(kept[..., None], features, 1e3 * torch.randn(features.shape, generator=draw).double())
    dress = HOSTS[name][1]
    first, second = (outputs_and_gradients(model, graft, dress(given, kept)) for given in (features, other))
    assert all(part.isfinite().all() for part in first)
    for mine, theirs in zip(first, second, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-11, atol=1e-11)
    graft.is_muted = True
    assert not max(lengths) or not torch.equal(first[0], outputs_and_gradients(model, graft, dress(features, kept))[0])


def textbook(seed: nn.Module, value: Tensor, kept: Tensor, *, is_causal: bool) -> Tensor:
    """The same by definition, one row and one position after another, in float64."""
    heads, size = seed.heads, seed.outward.in_features // seed.heads
    normed = F.layer_norm(value, value.shape[-1:], seed.norm.weight, seed.norm.bias, seed.norm.eps)
    query, key, mixed = (seed.inward(normed).unflatten(-1, (3, heads, size))[..., number, :, :] for number in range(3))
    output = torch.zeros(*value.shape[:2], heads, size, dtype=value.dtype)
    for row, position, head in product(range(len(value)), range(value.size(1)), range(heads)):
        others = [
            other
            for other in range(position + 1 if is_causal else value.size(1))
            if kept[row, other] or other == position
        ]
        products = key[row, others, head] @ query[row, position, head] / size**0.5
        output[row, position, head] = products.softmax(0) @ mixed[row, others, head]
    return output.flatten(2) @ seed.outward.weight.T


@pytest.mark.parametrize("is_causal", [False, True])
@given(data=st.data())
@settings(max_examples=10)
def test_it_is_the_attention_of_the_textbook(is_causal, data):
    graft = hung(host_of("names").double(), "layer.1.act", 12, is_causal=is_causal)
    kept = torch.tensor(data.draw(st.lists(st.lists(st.booleans(), min_size=6, max_size=6), min_size=1, max_size=3)))
    draw = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    activation = torch.randn(*kept.shape, 12, generator=draw, dtype=torch.float64)
    graft.masks.hear({"key_padding_mask": ~kept})
    wanted = textbook(graft.module, activation, kept, is_causal=is_causal)
    torch.testing.assert_close(graft.output(activation), wanted)


@pytest.mark.parametrize("form", ["2-D", "bool", "3-D", "4-D bool", "4-D of heads", "-1e4"])
def test_every_form_of_a_mask_says_the_same(form):
    model = Keyed(lambda block, hidden, mask: block(hidden)).double()
    graft = hung(model, "layer.1.act", 12)
    kept = torch.arange(POSITIONS) < torch.tensor([3, 6, 1])[:, None]
    forms = {
        "2-D": kept.long(),
        "bool": kept,
        "3-D": kept.long()[:, None].expand(-1, POSITIONS, -1),
        "4-D bool": kept[:, None, None],
        "4-D of heads": kept[:, None, None].expand(-1, 4, POSITIONS, -1),
        "-1e4": (1 - kept[:, None, None].double()) * -1e4,
    }
    activation = torch.randn(3, POSITIONS, 12, dtype=torch.float64)
    graft.masks.hear({"attention_mask": forms[form]})
    given = graft.output(activation)
    graft.masks.hear({"key_padding_mask": ~kept})
    torch.testing.assert_close(given, graft.output(activation))
    graft.masks.hear({"src_key_padding_mask": torch.zeros(3, POSITIONS).masked_fill(~kept, -torch.inf)})
    torch.testing.assert_close(given, graft.output(activation))
    graft.masks.hear({"attention_mask": None})
    assert not torch.allclose(given, graft.output(activation))


def test_a_causal_seed_looks_neither_ahead_nor_at_padding():
    model = Keyed(lambda block, hidden, mask: block(hidden)).double()
    graft = hung(model, "layer.1.act", 12, is_causal=True)
    kept = torch.arange(POSITIONS) >= torch.tensor([2, 0])[:, None]
    activation = torch.randn(2, POSITIONS, 12, dtype=torch.float64, requires_grad=True)
    graft.masks.hear({"attention_mask": kept.long()})
    given = graft.output(activation)
    (gradient,) = torch.autograd.grad(given[0, 3].sum(), activation)
    assert gradient[0].any(1).tolist() == [False, False, True, True, False, False]
    assert not gradient[1].any()


def test_a_batch_without_a_mask_is_attended_over_as_a_whole():
    model = Keyed().double()
    hung(model, "layer.0.act", 12)
    features = torch.randn(3, POSITIONS, FEATURES, dtype=torch.float64)
    unmasked = model(features)
    torch.testing.assert_close(unmasked, model(features, torch.ones(3, POSITIONS)))
    assert not torch.allclose(unmasked, model(features, torch.arange(POSITIONS).expand(3, -1) < 4))
    assert torch.equal(unmasked, model(features)), "what an earlier batch said is over"


def test_a_mask_of_another_sequence_is_refused_in_one_line(rig_of):
    class Shifted(Keyed):
        """A token of its own before the others, of which the caller's mask knows nothing."""

        def forward(self, features: Tensor, attention_mask: Tensor) -> Tensor:
            hidden = torch.cat([features[:, :1], features], 1)
            for block in self.layer:
                hidden = block(hidden)
            return self.pooled(hidden[:, 1:], attention_mask.bool())

    run = rig_of(Shifted(), MaskedTask(IN_NAMES))
    build = run.build("attention.self", "residual_linear:layer.0.act-layer.0.act", heads=2, head_size=3)
    said = run.failure(build)
    assert said == (
        "seed s1 attends over [8, 7, 12], the host gives attention_mask [8, 6]; expected one mask of "
        "[batch, positions] = [8, 7]: name the mask attention_mask or key_padding_mask where the host calls a module "
        "around it, or leave the seed out"
    )
    assert not any(module._forward_pre_hooks for module in run.arm.model.modules())


def test_a_place_that_the_hosts_mask_does_not_reach_is_refused_in_one_line(rig_of):
    run = rig_of(host_of("names of its own"), MaskedTask(IN_PLACES))
    said = run.failure(run.build("attention.self", "residual_linear:before.1-before.1", heads=2, head_size=3))
    assert said.startswith(
        "attention.self in residual_linear:before.1-before.1 would attend over padding: it can't know key_padding_mask "
        "of blocks.0.attention; name the mask"
    )
    run.train(1)


def trained(rig_of: Any, name: str, path: str, noise: float) -> tuple[Any, Any]:
    """A run of a host whose seed is judged against its twin and kept; what the judge saw."""
    run = rig_of(host_of(name), MaskedTask(HOSTS[name][1], noise))
    return run, judged(run, path)


def judged(run: Any, path: str) -> Any:
    run.train(2)
    run.graft("attention.self", f"residual_linear:{path}-{path}", heads=2, head_size=3)
    run.train(6)
    collected = run.do(run.directive("PROBE"), run.directive("JUDGE", look=1))
    run.do(run.directive("FOLD"), run.directive("DROP_TWIN"))
    run.train(2)
    (evidence,) = collected.observations
    return evidence.judgement


@pytest.mark.parametrize("name", HOSTS)
def test_a_run_with_twin_and_judge_is_bit_for_bit_the_same_whatever_stands_in_padding(rig_of, name):
    path = HOSTS[name][2][0]
    first, seen = trained(rig_of, name, path, noise=0.0)
    second, again = trained(rig_of, name, path, noise=3.0)
    assert first.arm.grafts[0].module.outward.weight.abs().sum() > 0
    assert first.arm.digest() == second.arm.digest()
    assert (seen.twin.mean, seen.muted.mean) == (again.twin.mean, again.muted.mean)


@pytest.mark.parametrize(("name", "path"), [(name, HOSTS[name][2][-1]) for name in HOSTS])
def test_a_kept_seed_knows_the_mask_after_reload(rig_of, name, path, tmp_path):
    """Also where torch would run the layers before it by fused kernels that pack what isn't padding."""
    run, _ = trained(rig_of, name, path, noise=0.0)
    torch.save(plain(run.arm, takes_any=True), tmp_path / "network.pt")
    network = torch.load(tmp_path / "network.pt", weights_only=False)
    inputs, noisy = (MaskedTask(HOSTS[name][1], noise).probe_inputs() for noise in (0.0, 3.0))
    with run.arm.measured(1):
        expected = run.task.forward(run.arm.model, inputs)
    with torch.no_grad():
        torch.testing.assert_close(run.task.forward(network, inputs), expected)
        torch.testing.assert_close(run.task.forward(network, noisy), expected)


class OfOneTensor(Pooled):
    """Sees itself where nothing is, and tells the attentions of its blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([OwnBlock(), OwnBlock()])

    def forward(self, features: Tensor) -> Tensor:
        pad = (features == 0).all(-1)
        for block in self.blocks:
            features = block(features, pad)
        return self.pooled(features, ~pad)


def test_a_program_masks_as_the_network_with_its_kept_seed_does(rig_of, tmp_path):
    """Also for another number of rows, and other lengths than it was shown."""
    run = rig_of(OfOneTensor(), MaskedTask(lambda features, kept: features.masked_fill(~kept[..., None], 0.0)))
    judged(run, "blocks.0")
    network = plain(run.arm)
    program, reason = traced(network, run.task.probe_inputs())
    assert program is not None, reason
    torch.export.save(program, tmp_path / "network.pt2")
    loaded = torch.export.load(tmp_path / "network.pt2").module()
    lengths = torch.tensor([1, 6, 3])
    features = torch.randn(3, POSITIONS, FEATURES) * (torch.arange(POSITIONS) < lengths[:, None])[..., None]
    features = features.to(next(network.parameters()).device)
    with torch.no_grad():
        torch.testing.assert_close(loaded(features), network(features), rtol=1e-5, atol=1e-6)
        whole = network(features + 1e-6)
    assert not torch.allclose(loaded(features), whole, atol=1e-4), "the mask counts"


def test_a_copy_has_masks_of_its_own(rig_of):
    run, _ = trained(rig_of, "names", "layer.0", noise=0.0)
    copied = run.arm.clone()
    inputs = run.task.probe_inputs()
    run.task.forward(run.arm.model, inputs)
    assert not copied.grafts[0].masks.given
    assert run.arm.grafts[0].masks.given
    run.executor.before_step(run.step)
    assert not run.arm.grafts[0].masks.given, "no pass outlives its step"


def by_name(block: nn.Module, hidden: Tensor, mask: Tensor | None) -> Tensor:
    return checkpoint(block, hidden, attention_mask=mask, use_reentrant=False)


def unmasked(block: nn.Module, hidden: Tensor, mask: Tensor | None) -> Tensor:
    """Only the seed masks: the host's mask stands in its own call alone."""
    return block(hidden)


def without_name(block: nn.Module, hidden: Tensor, mask: Tensor | None) -> Tensor:
    return checkpoint(block, hidden, use_reentrant=False)


def masked_batches(count: int) -> list[Any]:
    features = torch.randn(count, 3, POSITIONS, FEATURES, generator=torch.Generator().manual_seed(1)).double()
    lengths = [torch.tensor([number, 6, 4]) for number in range(1, count + 1)]
    return [
        IN_NAMES(part, torch.arange(POSITIONS) < each[:, None]) for part, each in zip(features, lengths, strict=True)
    ]


def grown(run: Callable[..., Tensor]) -> tuple[nn.Module, Graft]:
    torch.default_generator.manual_seed(2)
    model = Keyed(run).double()
    return model, hung(model, "layer.0.act", 12)


@pytest.mark.parametrize(("checkpointed", "kept"), [(by_name, called), (without_name, unmasked)])
def test_a_checkpoint_that_runs_again_attends_as_before(checkpointed, kept):
    """Also where gradients of several batches add up before a step."""
    runs = []
    for run in (checkpointed, kept):
        model, graft = grown(run)
        runs.append([part for batch in masked_batches(3) for part in outputs_and_gradients(model, graft, batch)])
    for mine, theirs in zip(*runs, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_a_checkpoint_is_told_the_mask_of_its_own_pass_or_refused():
    """Two passes before one backward: with the mask by its name each has its own, without it none would be sure."""
    gradients = []
    for run in (by_name, called):
        model, graft = grown(run)
        loss = sum(model(**batch).square().sum() for batch in masked_batches(2))
        gradients.append(torch.autograd.grad(loss, [*graft.module.parameters(), model.head.weight]))
    for mine, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, theirs)
    model, _ = grown(without_name)
    loss = sum(model(**batch).square().sum() for batch in masked_batches(2))
    with pytest.raises(GraftFailed, match="after several masked forward passes"):
        loss.backward()


@pytest.mark.parametrize("name", drilled(HOSTS, lambda name: name == "names"))
def test_compiled_whole_it_masks_in_one_graph(rig_of, name):
    plainly, _ = trained(rig_of, name, HOSTS[name][2][0], noise=0.0)
    whole = rig_of(torch.compile(host_of(name), backend="eager", fullgraph=True), MaskedTask(HOSTS[name][1]))
    judged(whole, HOSTS[name][2][0])
    assert whole.arm.digest() == plainly.arm.digest()


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.parametrize("name", drilled(HOSTS, lambda name: name == "names"))
def test_where_blocks_are_compiled_it_masks_as_where_they_are_not(rig_of, name):
    plainly, _ = trained(rig_of, name, HOSTS[name][2][0], noise=0.0)
    host, (first, *_, within) = host_of(name), HOSTS[name][2]
    with torch._dynamo.config.patch(skip_nnmodule_hook_guards=False), patch.object(compiled, "BACKEND", "eager"):
        compiled.compile_in_place(host.get_submodule(path) for path in (first, within.rpartition(".")[0]))
        run = rig_of(host, MaskedTask(HOSTS[name][1], noise=3.0))
        judged(run, first)
    assert len(compiled.compiled_parts(run.arm.model)) == 2
    assert run.arm.digest() == plainly.arm.digest()


class OfItsOwn(Pooled):
    """Its mask has a name that nobody knows, and is no argument of any module."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.act, self.fc2 = nn.Linear(FEATURES, 12), nn.GELU(), nn.Linear(12, FEATURES)

    def forward(self, features: Tensor, is_text: Tensor) -> Tensor:
        return self.pooled(features + self.fc2(self.act(self.fc1(features))), is_text)


def test_where_no_mask_is_named_and_lengths_vary_that_is_said_of_the_seed(rig_of):
    run = rig_of(OfItsOwn(), MaskedTask(lambda features, kept: {"features": features, "is_text": kept}, noise=1.0))
    collected = run.do(run.build("attention.self", "residual_linear:act-act", heads=2, head_size=3))
    (report,) = collected.reports
    assert report.succeeded
    assert report.failure == (
        "attention.self in residual_linear:act-act attends over padding, if there is any: is_text looks like a mask, "
        "2 to 6 times 1 of 6, and no mask has a known name; name the mask attention_mask or key_padding_mask where the "
        "host calls a module around it, or leave the seed out"
    )


WORDS = torch.tensor([[5, 3, 8, 2], [7, 2, 0, 0], [4, 2, 9, 0]])


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({"words": WORDS}, "words ends with 0 0 to 2 times"),
        ([WORDS.flip(1)], "0 begins with 0 0 to 2 times"),
        (WORDS, "the input ends with 0 0 to 2 times"),
        ({"steps": {"of": F.one_hot(WORDS.clamp(max=9))[..., 1:].float()}}, "steps.of ends with zeros 0 to 2 times"),
        ({"x": WORDS[:, :1], "text_lengths": torch.tensor([4, 2, 3])}, "text_lengths says 2 to 4 positions"),
        ({"x": WORDS[:, :1], "pad": WORDS == 0}, "pad looks like a mask, 0 to 2 times 1 of 4"),
        (torch.tensor([[1, 5, 3, 8], [1, 7, 0, 0], [1, 4, 2, 9]]), "the input ends with 0 0 to 2 times"),
        ({"{}": WORDS}, "{} ends with 0 0 to 2 times"),
        # Nothing of which one could say so: a word that stands elsewhere too, one end a text, and no texts at all.
        (WORDS.where(WORDS != 3, 0), ""),
        (torch.tensor([[5, 3, 8, 2], [7, 6, 4, 0], [4, 2, 9, 1]]), ""),
        (torch.tensor([[5, 0, 0], [7, 0, 0]]), ""),
        (torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(1)), ""),
        ({"x": torch.zeros(0, 4, dtype=torch.long), "lengths": torch.tensor([4, 4])}, ""),
        (torch.tensor([[True, False, True], [False, False, True]]), ""),
    ],
)
def test_signs_of_several_lengths(inputs, said):
    assert sign_of_padding(inputs) == said
