"""Cells of a plan: names, and randomised complete blocks."""

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulelab.models.registry import zoo_names
from joulelab.runs import FACTORS, LIMIT_UNITS
from joulelab.study.cells import blocks, combinations, digest, run_name
from joulelab.study.plan import FactorsPlan, Plan

ORDER_OF_SEED_7 = [
    ["VGG16", "ResNet18", "LeNet", "MobileNet"],
    ["LeNet", "ResNet18", "VGG16", "MobileNet"],
    ["VGG16", "ResNet18", "LeNet", "MobileNet"],
]

PLANS = st.builds(
    Plan,
    name=st.just("a"),
    models=st.lists(st.sampled_from(zoo_names()), min_size=1, max_size=5, unique=True),
    repeats=st.integers(1, 4),
    seed=st.integers(0, 2**32 - 1),
    factors=st.builds(
        FactorsPlan,
        batch_size=st.lists(st.integers(1, 99), min_size=1, max_size=3, unique=True),
        precision=st.sampled_from([["fp32"], ["fp32", "bf16"]]),
        compile=st.sampled_from([[False], [False, True]]),
        input_path=st.sampled_from([["device"], ["device", "loader"]]),
        power_limit_w=st.sampled_from([None, [200.0], [200.0, 250.0]]),
    ),
)


@given(PLANS)
def test_the_cells_are_the_whole_product(plan):
    every = combinations(plan)
    levels = [plan.models, *plan.factors.levels().values()]
    assert len(every) == math.prod(map(len, levels))
    assert len({digest(factors) for factors in every}) == len(every)
    assert {tuple(factors) for factors in every} == {("model", *plan.factors.levels(), "dataset")}
    optional = {*LIMIT_UNITS, "prompt_tokens", "output_tokens", "attention", "cache"}
    left_out = optional - {*plan.factors.levels()}
    assert {*every[0]} == {"model", *FACTORS} - left_out


@given(PLANS)
def test_each_block_holds_every_combination_once(plan):
    every = {digest(factors) for factors in combinations(plan)}
    drawn = blocks(plan)
    assert len(drawn) == plan.repeats
    for index, block in enumerate(drawn):
        assert {digest(cell.factors) for cell in block} == every
        assert [cell.order for cell in block] == list(range(len(every)))
        assert {cell.block for cell in block} == {index}


@given(PLANS)
def test_ids_are_unique_and_the_same_in_every_block(plan):
    cells = [cell for block in blocks(plan) for cell in block]
    assert len({cell.run_id for cell in cells}) == len(cells)
    names = {digest(cell.factors): set() for cell in cells}
    for cell in cells:
        prefix, _, name = cell.run_id.partition("-")
        assert prefix == f"r{cell.block}"
        names[digest(cell.factors)].add(name)
    assert all(len(known) == 1 for known in names.values())


@given(PLANS)
def test_the_order_follows_from_the_plan(plan):
    assert blocks(plan) == blocks(plan)


def test_the_order_is_stable_over_versions_and_platforms():
    plan = Plan(name="a", models=["LeNet", "ResNet18", "VGG16", "MobileNet"], repeats=3, seed=7)
    assert [[cell.factors["model"] for cell in block] for block in blocks(plan)] == ORDER_OF_SEED_7


def test_blocks_and_seeds_differ_in_order():
    plan = Plan(name="a", models=zoo_names(), repeats=2)
    other = Plan(name="a", models=zoo_names(), repeats=2, seed=1)
    orders = [
        tuple(cell.factors["model"] for cell in block) for p in (plan, other) for block in blocks(p)
    ]
    assert len(set(orders)) == 4


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("ResNet18", "resnet18-b8"),
        ("timm:vit_tiny_patch16_224.augreg", "timm-vit-tiny-patch16-224-augreg-b8"),
        ("mymodels.nets:build", "mymodels-nets-build-b8"),
    ],
)
def test_names_of_runs_are_those_of_studies_that_were_begun_earlier(model, name):
    assert run_name({"model": model, "batch_size": 8}) == name


FACTORIAL = {
    "batch_size": [64, 8],
    "precision": ["fp32", "bf16"],
    "optimizer": ["sgd", "adamw"],
    "compile": [False],
}


def ids(plan, *recorded):
    return {cell.run_id for block in blocks(plan, recorded) for cell in block}


def test_names_show_the_levels_of_the_factors_that_vary():
    plan = Plan(name="a", models=["LeNet"], factors=FactorsPlan(**FACTORIAL))
    assert ids(plan) == {
        f"r0-lenet-{b}-{p}-{o}"
        for b in ("b64", "b8")
        for p in ("fp32", "bf16")
        for o in ("sgd", "adamw")
    }
    assert all(cell.label == cell.run_id for cell in blocks(plan)[0])
    assert ids(Plan(name="a", models=["LeNet", "VGG16"])) == {"r0-lenet", "r0-vgg16"}


LONG = "mymodels:" + "x" * 70


@pytest.mark.parametrize(
    ("models", "factors"),
    [
        ([LONG + "1", LONG + "2"], {}),  # names of models are cut
        (["my.nets:a_b", "my.nets:a-b"], {}),  # and have hyphens for what a file may not be named
        (["idle:before"], {}),  # as the idle runs are
        (
            ["torchvision:resnext101_32x8d"],
            {
                **FACTORIAL,
                "memory_format": ["contiguous", "channels_last"],
                "input_path": ["device", "loader"],
                "compile": [False, True],
            },
        ),
    ],
)
def test_names_with_levels_that_are_ambiguous_or_long_have_a_hash(models, factors):
    plan = Plan(name="a", models=models, factors=FactorsPlan(**factors))
    cells = blocks(plan)[0]
    assert len({cell.run_id for cell in cells}) == plan.cells
    assert all(re.fullmatch(r"r0-[a-z0-9-]+-b\d+-[0-9a-f]{4,}", cell.run_id) for cell in cells)
    if factors:
        assert cells[0].label.startswith(f"{cells[0].run_id} (")
        texts = {cell.label.partition(" (")[2] for cell in cells}
        assert "bf16, channels_last, no-compile, adamw and loader)" in texts


def test_a_study_keeps_the_names_that_it_was_started_with():
    plan = Plan(name="a", models=["LeNet"], repeats=2, factors=FactorsPlan(**FACTORIAL))
    factors = {
        "model": "LeNet",
        "batch_size": 64,
        "precision": "bf16",
        "memory_format": "contiguous",
    }
    factors |= {"compile": False, "optimizer": "adamw", "input_path": "device", "device": "auto"}
    old = f"r1-lenet-b64-{digest(factors | {'dataset': 'digits'})[:4]}"
    names = ids(plan, "r0-idle-before", old)
    assert old in names
    assert all(re.fullmatch(r"r[01]-lenet-b\d+-[0-9a-f]{4}", name) for name in names)
    assert not names & ids(plan, "r0-idle-before", "r0-lenet-b64-bf16-adamw")
