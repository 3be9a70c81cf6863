"""The catalogue: complete, digested, within its bounds."""

import hashlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.core.errors import ContractError, CorruptRecord, DependencyViolationError
from esper.core.messages.validation import violations
from esper.leyline import Blueprint, HandlingClass, HazardBand, SeedRecipe, SlotKind, SlotSpec, TaskType
from esper.urza.artifacts import ArtifactStore
from esper.urza.catalog import Catalog, completed, digest_of, is_stack, misfit, recipe_in

CATALOG = Catalog.builtin()
BLUEPRINTS = CATALOG.all()
CLASSIFICATION = TaskType.TASK_TYPE_CLASSIFICATION


@pytest.mark.parametrize("blueprint", BLUEPRINTS, ids=lambda b: b.blueprint_id)
def test_every_blueprint_is_a_valid_message_with_its_own_digest(blueprint: Blueprint) -> None:
    assert violations(blueprint) == []
    assert digest_of(blueprint) == blueprint.digest


@pytest.mark.parametrize("blueprint", BLUEPRINTS, ids=lambda b: b.blueprint_id)
def test_every_artefact_is_the_recipe_of_its_blueprint(blueprint: Blueprint) -> None:
    content = ArtifactStore().get(blueprint.artifact.digest)
    assert hashlib.sha256(content).hexdigest() == blueprint.artifact.digest
    assert len(content) == blueprint.artifact.size_bytes
    recipe = SeedRecipe.FromString(content)
    assert (recipe.blueprint_id, recipe.version) == (blueprint.blueprint_id, blueprint.version)


def test_the_catalogue_holds_what_can_be_grown() -> None:
    assert [b.blueprint_id for b in BLUEPRINTS] == [
        "span.linear",
        "span.conv",
        "span.heads",
        "residual.linear",
        "residual.conv",
        "adapter.low_rank",
        "adapter.lora",
        "gate.channel",
        "attention.self",
        "stack.double",
        "stack.part",
        "control.random_frozen",
    ]


def test_an_unknown_blueprint_is_an_error_that_names_the_known_ones() -> None:
    with pytest.raises(DependencyViolationError, match=r"'span\.cubic'.*span\.linear"):
        CATALOG.get("span.cubic")


def test_every_slot_kind_has_a_blueprint_and_its_controls_come_last() -> None:
    for kind in SlotKind.values():
        if kind == SlotKind.SLOT_KIND_UNSPECIFIED:
            continue
        fitting = CATALOG.for_slot(kind)
        assert [b.is_control for b in fitting] == sorted(b.is_control for b in fitting)
        assert not fitting[0].is_control


def test_of_what_is_built_only_the_control_makes_output_and_it_is_never_used_unasked() -> None:
    controls = [b for b in BLUEPRINTS if not b.is_zero_output and not is_stack(b)]
    assert [b.blueprint_id for b in controls] == ["control.random_frozen"]
    assert controls[0].is_control
    assert controls[0].safety.handling == HandlingClass.HANDLING_CLASS_QUARANTINE
    assert controls[0].safety.hazard == HazardBand.HAZARD_BAND_CRITICAL


def test_a_blueprint_that_does_not_fit_says_why() -> None:
    slot = SlotSpec(slot_id="s", kind=SlotKind.SLOT_KIND_RESIDUAL_LINEAR, read_positions=1)
    assert "doesn't fit" in (misfit(CATALOG.get("span.linear"), slot, CLASSIFICATION) or "")
    assert "needs a sequence" in (misfit(CATALOG.get("attention.self"), slot, CLASSIFICATION) or "")
    assert misfit(CATALOG.get("residual.linear"), slot, CLASSIFICATION) is None


@pytest.mark.parametrize("blueprint_id", ["residual.conv", "control.random_frozen"])
def test_a_convolution_over_positions_fits_no_language_model(blueprint_id: str) -> None:
    slot = SlotSpec(slot_id="s", kind=SlotKind.SLOT_KIND_RESIDUAL_CONV, read_positions=16)
    assert misfit(CATALOG.get(blueprint_id), slot, CLASSIFICATION) is None
    assert "later tokens" in (misfit(CATALOG.get(blueprint_id), slot, TaskType.TASK_TYPE_LANGUAGE_MODEL) or "")
    assert misfit(CATALOG.get("attention.self"), slot, TaskType.TASK_TYPE_LANGUAGE_MODEL) is None


@pytest.mark.parametrize("blueprint", BLUEPRINTS, ids=lambda b: b.blueprint_id)
def test_defaults_are_complete_and_legal(blueprint: Blueprint) -> None:
    defaults = {bound.name: bound.default_value for bound in blueprint.parameters if bound.name != "factor"}
    assert completed(blueprint, {}) == defaults


@pytest.mark.parametrize(
    ("factor", "units", "width"),
    [(2.0, 6, 6), (3.0, 4, 8), (1.5, 5, 2), (1.01, 6, 1), (16.0, 1000, 1024), (2.0, 1, 1)],
)
def test_a_factor_becomes_the_units_that_a_layer_of_so_many_gets(factor: float, units: int, width: int) -> None:
    for blueprint_id in ("span.linear", "span.conv"):
        assert completed(CATALOG.get(blueprint_id), {"factor": factor}, units=units) == {"width": width}


def test_a_factor_of_one_leaves_the_width_as_it_is_said() -> None:
    assert completed(CATALOG.get("span.linear"), {"factor": 1.0, "width": 5.0}, units=6) == {"width": 5.0}


def test_a_factor_beside_a_width_or_without_a_layer_that_it_multiplies_is_refused() -> None:
    with pytest.raises(ContractError, match="give one"):
        completed(CATALOG.get("span.linear"), {"factor": 2.0, "width": 8.0}, units=6)
    with pytest.raises(ContractError, match="not known"):
        completed(CATALOG.get("span.conv"), {"factor": 2.0})
    with pytest.raises(ContractError, match="no parameter of residual"):
        completed(CATALOG.get("residual.linear"), {"factor": 2.0}, units=6)


def test_every_bad_parameter_is_named_at_once() -> None:
    with pytest.raises(ContractError) as caught:
        completed(CATALOG.get("control.random_frozen"), {"width": 2.5, "scale": float("nan"), "depth": 1})
    assert len(caught.value.violations) == 3


@given(st.floats())
def test_a_width_is_accepted_exactly_when_it_is_a_whole_number_in_bounds(width: float) -> None:
    legal = 1 <= width <= 1024 and width == int(width)
    try:
        assert completed(CATALOG.get("span.linear"), {"width": width}) == {"width": width}
        assert legal
    except ContractError:
        assert not legal


def test_a_width_is_rounded_up_to_whole_groups() -> None:
    span = CATALOG.get("span.conv")
    assert completed(span, {"width": 7}, unit=3)["width"] == 9
    assert completed(span, {"factor": 1.5}, units=12, unit=4)["width"] == 8
    assert completed(span, {"width": 7})["width"] == 7


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda b: setattr(b.artifact, "content_type", "other.Message"), "is said to be a 'other.Message', expected"),
        (lambda b: setattr(b.artifact, "size_bytes", 3), "bytes, expected 3; add the blueprint again"),
        (lambda b: setattr(b, "version", 9), "in version 9 is the recipe of 'span.linear' in version"),
        (lambda b: setattr(b, "blueprint_id", "lab.gated"), "is the recipe of 'span.linear' in version"),
    ],
)
def test_an_artefact_that_is_not_what_its_blueprint_says_is_refused(
    change: Callable[[Blueprint], object], told: str
) -> None:
    blueprint = Blueprint()
    blueprint.CopyFrom(Catalog.builtin().get("span.linear"))
    content = ArtifactStore().get(blueprint.artifact.digest)
    assert recipe_in(blueprint, content).factory == "span.linear"
    change(blueprint)
    with pytest.raises(CorruptRecord, match=told):
        recipe_in(blueprint, content)


def test_an_artefact_that_is_no_message_is_refused() -> None:
    blueprint = Blueprint()
    blueprint.CopyFrom(Catalog.builtin().get("span.linear"))
    blueprint.artifact.size_bytes = 1
    with pytest.raises(CorruptRecord, match="is no recipe"):
        recipe_in(blueprint, b"\xff")
