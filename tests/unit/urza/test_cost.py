"""The cost model, against networks counted by hand."""

import pytest

from esper.leyline import Blueprint, HostManifest, SlotKind, SlotSignal, SlotSpec, SubmoduleSpec, TaskType
from esper.urza.catalog import Catalog, completed
from esper.urza.cost import FORMULAS, Cost, cost, memory

CATALOG = Catalog.builtin()
CLASSES = TaskType.TASK_TYPE_CLASSIFICATION


def slot(kind: SlotKind, **fields: int) -> SlotSpec:
    ones = dict.fromkeys(("read_positions", "write_positions", "read_kernel", "write_kernel"), 1)
    return SlotSpec(slot_id="s", kind=kind, **{"in_features": 64, "out_features": 10, **ones, **fields})


def test_a_linear_span_costs_what_a_wider_hidden_layer_costs() -> None:
    spec = slot(SlotKind.SLOT_KIND_SPAN_LINEAR)
    # 64 -> 8 with bias, 8 -> 10 without
    assert cost(CATALOG.get("span.linear"), spec, None, {"width": 8}, CLASSES) == Cost(
        parameters=8 * 64 + 8 + 80, forward_macs=8 * 64 + 80
    )


def test_a_signal_counts_more_than_the_slot_at_the_start() -> None:
    spec = slot(SlotKind.SLOT_KIND_SPAN_LINEAR)
    signal = SlotSignal(slot_id="s", in_features=14, out_features=4, width=6)
    assert cost(CATALOG.get("span.linear"), spec, signal, {"width": 2}, CLASSES) == Cost(
        parameters=2 * 15 + 8, forward_macs=36
    )


def test_a_stack_costs_so_many_blocks_and_a_doubled_one_those_of_now() -> None:
    spec = slot(SlotKind.SLOT_KIND_STACK, depth=3, block_parameters=50, block_forward_macs=40)
    signal = SlotSignal(slot_id="s", in_features=8, out_features=8, width=8, depth=6)
    assert cost(CATALOG.get("stack.double"), spec, None, {}, CLASSES) == Cost(parameters=150, forward_macs=120)
    assert cost(CATALOG.get("stack.double"), spec, signal, {}, CLASSES) == Cost(parameters=300, forward_macs=240)
    part = CATALOG.get("stack.part")
    assert cost(part, spec, signal, {"blocks": 2}, CLASSES) == Cost(parameters=100, forward_macs=80)


def test_a_convolution_span_owns_its_norm_and_pays_for_every_position() -> None:
    spec = slot(
        SlotKind.SLOT_KIND_SPAN_CONV,
        in_features=3, out_features=5, read_positions=16, write_positions=4, read_kernel=9, write_kernel=9,
    )  # fmt: skip
    expected = Cost(parameters=2 * (27 + 1) + 4 + 2 * 45, forward_macs=2 * (16 * 27 + 4 * 45))
    assert cost(CATALOG.get("span.conv"), spec, None, {"width": 2}, CLASSES) == expected


def test_a_span_into_a_flattened_linear_layer_expands_each_channel_to_its_columns() -> None:
    spec = slot(
        SlotKind.SLOT_KIND_SPAN_CONV_LINEAR,
        in_features=3, out_features=10, read_positions=16, read_kernel=9, write_kernel=4,
    )  # fmt: skip
    expected = Cost(parameters=(27 + 1) + 2 + 40, forward_macs=16 * 27 + 40)
    assert cost(CATALOG.get("span.conv"), spec, None, {"width": 1}, CLASSES) == expected


def test_a_residual_convolution_pays_for_its_taps_twice() -> None:
    spec = slot(
        SlotKind.SLOT_KIND_RESIDUAL_CONV,
        in_features=4, out_features=4, read_positions=16, write_positions=16, read_kernel=9, write_kernel=9,
    )  # fmt: skip
    expected = Cost(parameters=8 + (4 * 9 * 2 + 2) + (2 * 9 * 4 + 4), forward_macs=16 * 2 * 4 * 9 * 2)
    assert cost(CATALOG.get("residual.conv"), spec, None, {"width": 2}, CLASSES) == expected


def test_attention_grows_with_the_square_of_the_length() -> None:
    blueprint = CATALOG.get("attention.self")
    short, long = (
        slot(SlotKind.SLOT_KIND_RESIDUAL_LINEAR, in_features=8, out_features=8, read_positions=n, write_positions=n)
        for n in (10, 20)
    )
    values = completed(blueprint, {"heads": 1, "head_size": 4})
    assert cost(blueprint, short, None, values, CLASSES) == Cost(
        parameters=16 + 128, forward_macs=10 * 128 + 2 * 100 * 4
    )
    assert cost(blueprint, long, None, values, CLASSES).forward_macs == 20 * 128 + 2 * 400 * 4


def test_attention_in_a_language_model_looks_back_only_and_costs_half_of_its_pairs() -> None:
    blueprint = CATALOG.get("attention.self")
    spec = slot(
        SlotKind.SLOT_KIND_RESIDUAL_LINEAR, in_features=8, out_features=8, read_positions=10, write_positions=10
    )
    price = cost(blueprint, spec, None, {"heads": 1, "head_size": 4}, TaskType.TASK_TYPE_LANGUAGE_MODEL)
    assert price == Cost(parameters=16 + 128, forward_macs=10 * 128 + 100 * 4)


@pytest.mark.parametrize("blueprint", CATALOG.all(), ids=lambda b: b.blueprint_id)
def test_every_blueprint_has_a_cost_in_every_slot_that_it_fits(blueprint: Blueprint) -> None:
    sizes = {"read_positions": 2, "write_positions": 2, "depth": 2, "block_parameters": 9, "block_forward_macs": 8}
    for kind in blueprint.slot_kinds:
        price = cost(blueprint, slot(kind, **sizes), None, completed(blueprint, {}), CLASSES)
        assert price.parameters > 0
        assert (price.forward_macs > 0) == (blueprint.blueprint_id != "gate.channel")


def test_there_is_a_formula_for_every_blueprint_and_no_other() -> None:
    assert set(FORMULAS) == {blueprint.blueprint_id for blueprint in CATALOG.all()}


def test_memory_counts_the_gradient_and_the_optimisers_moments() -> None:
    manifest = HostManifest(optimizer_family="Adam", submodules=[SubmoduleSpec(path="fc1", dtype="float32")])
    told = memory(manifest, parameters=100, added=50, has_twin=False)
    assert (told.weights, told.gradients, told.optimizer, told.twin) == (600, 600, 1200, 0)
    manifest.optimizer_family = "SGD"
    manifest.submodules[0].dtype = "torch.bfloat16"
    assert memory(manifest, parameters=100, added=0, has_twin=False).total == 600
    manifest.optimizer_family = "SGD+average"
    assert memory(manifest, parameters=100, added=0, has_twin=False).total == 800


def test_two_arms_hold_what_the_network_and_its_never_grafted_copy_hold() -> None:
    manifest = HostManifest(optimizer_family="Adam", submodules=[SubmoduleSpec(path="fc1", dtype="float32")])
    told = memory(manifest, parameters=100, added=50, has_twin=True)
    assert told.twin == 1600
    assert told.total == 2400 + 1600


def test_training_a_block_costs_three_times_its_forward_pass() -> None:
    assert Cost(parameters=1, forward_macs=40).training_macs == 120


def test_heads_cost_their_projections_and_half_of_all_pairs_where_attention_is_causal() -> None:
    spec = slot(
        SlotKind.SLOT_KIND_SPAN_HEADS,
        in_features=16, out_features=16, read_positions=10, write_positions=10, read_kernel=12, write_kernel=4,
    )  # fmt: skip
    layers, pairs = 2 * (12 * 16 + 4 * 16), 2 * 10 * 10 * 2 * 4
    whole = cost(CATALOG.get("span.heads"), spec, None, {"heads": 2}, CLASSES)
    causal = cost(CATALOG.get("span.heads"), spec, None, {"heads": 2}, TaskType.TASK_TYPE_LANGUAGE_MODEL)
    assert whole.parameters == layers + 2
    assert (whole.forward_macs, causal.forward_macs) == (10 * layers + pairs, 10 * layers + pairs // 2)


def test_a_convolution_between_costs_its_taps_for_each_channel() -> None:
    sizes = {"in_features": 3, "out_features": 5, "read_positions": 16, "write_positions": 16}
    plain, between = (
        cost(CATALOG.get("span.conv"), slot(SlotKind.SLOT_KIND_SPAN_CONV, **sizes, **more), None, {"width": 2}, CLASSES)
        for more in ({}, {"between_kernel": 9})
    )
    assert between.parameters - plain.parameters == 18
    assert between.forward_macs - plain.forward_macs == 2 * 16 * 9
