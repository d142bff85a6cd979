"""Traced steps: kinds, FLOPs, bytes and launches of their operators."""

import csv
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from joulelab.errors import UserError
from joulelab.models.registry import zoo_names
from joulelab.predict import step_tracing
from joulelab.predict.step_tracing import trace_step
from joulelab.predict.steps import KINDS, MatrixProduct

CHARACTERISTICS = Path(__file__).parents[1] / "models" / "data" / "zoo_characteristics.csv"


def operators(model, phase="infer", batch=2, shape=(8, 6, 6)):
    return trace_step(model, phase, batch, shape).operators


def of_kind(found, kind):
    return [one for one in found if one.kind == kind]


def only(found, kind):
    (one,) = of_kind(found, kind)
    return one


def test_flops_of_the_zoo_follow_from_its_macs(h100_measurements, h100_steps):
    """``tests/models`` compares the same table with PyTorch's own counter."""
    with CHARACTERISTICS.open(newline="") as file:
        macs = {row["model"]: int(row["macs"]) for row in csv.DictReader(file)}
    steps = {
        (one.case.model, one.case.phase): step
        for one, step in zip(h100_measurements, h100_steps, strict=True)
    }
    for name in zoo_names():
        infer, train = steps[name, "infer"], steps[name, "train"]
        assert infer.flops == 2 * 128 * macs[name], name
        first = next(iter(infer.operators))
        assert train.flops == 3 * infer.flops - first.flops, "no gradient for the images"


def test_a_dense_convolution():
    found = operators(nn.Conv2d(8, 16, 3, padding=1, bias=False))
    one = only(found, "convolution")
    assert one.flops == 2 * (2 * 36) * 16 * 8 * 9
    assert one.product == MatrixProduct(1, 2 * 36, 16, 72)
    assert one.read_bytes == 4 * (2 * 8 * 36 + 16 * 72)
    assert one.written_bytes == 4 * 2 * 16 * 36
    assert sum(found.values()) == 1


@pytest.mark.parametrize(
    ("layer", "kind", "product"),
    [
        (nn.Conv2d(8, 4, 1), "pointwise_convolution", MatrixProduct(1, 72, 4, 8)),
        (
            nn.Conv2d(8, 16, 3, padding=1, groups=2),
            "grouped_convolution",
            MatrixProduct(2, 72, 8, 36),
        ),
        (
            nn.Conv2d(8, 8, 3, padding=1, groups=8),
            "depthwise_convolution",
            MatrixProduct(8, 72, 1, 9),
        ),
        (
            nn.Conv2d(8, 16, 3, padding=1, groups=8),
            "depthwise_convolution",
            MatrixProduct(8, 72, 2, 9),
        ),
        (nn.ConvTranspose2d(8, 4, 2, 2), "convolution", MatrixProduct(1, 288, 4, 8)),
    ],
)
def test_kinds_of_convolutions(layer, kind, product):
    one = only(operators(layer), kind)
    assert one.product == product
    assert one.flops == 2 * math.prod(product)


def test_gradients_of_a_convolution_are_separate_operators_of_one_call():
    model = nn.Sequential(nn.Conv2d(8, 8, 1), nn.Conv2d(8, 16, 3, padding=1, bias=True))
    found = operators(model, "train")
    backward = [one for one in of_kind(found, "convolution") if one.part == "backward"]
    assert {one.product for one in backward} == {
        MatrixProduct(1, 72, 8, 144),  # of the image
        MatrixProduct(1, 16, 72, 72),  # of the weights
    }
    assert sorted(one.calls for one in backward) == [0, 1]
    assert any(one.kind == "reduction" and one.calls == 0 for one in found)  # of the bias


def test_depthwise_weight_gradients_are_a_separate_kind():
    found = operators(nn.Sequential(nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8)), "train")
    assert only(found, "depthwise_weight_gradient").part == "backward"


def test_a_separate_kernel_adds_the_bias_of_a_library_convolution():
    found = operators(nn.Conv2d(8, 16, 3, padding=1))
    added = only(found, "elementwise")
    assert added.calls == 0
    assert added.read_bytes == added.written_bytes == 4 * 2 * 16 * 36


@pytest.mark.parametrize(
    ("layer", "elements"),
    [
        (nn.MaxPool2d(3, 1, 1), [9 * 576, 576]),  # the gradient goes to one number of each window
        (nn.AvgPool2d(2), [4 * 144, 4 * 144]),
        (nn.AdaptiveAvgPool2d(2), [576, 576]),
    ],
)
def test_pooling_counts_the_numbers_in_its_windows(layer, elements):
    found = operators(nn.Sequential(nn.Conv2d(8, 8, 1, bias=False), layer), "train")
    assert [one.elements for one in of_kind(found, "pooling")] == elements


def test_unpooling_has_no_windows():
    class Unpooling(nn.Module):
        def forward(self, x):
            return F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2)

    found = operators(Unpooling())
    assert only(found, "pooling").elements == 4 * 144
    assert sum(one.elements for one in found) == 4 * 144


def test_functions_and_statistics_count_their_numbers():
    layers = (nn.Conv2d(8, 8, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.SiLU())
    for phase, counted in (("infer", {576}), ("train", {2 * 576, 576})):
        found = operators(nn.Sequential(*layers), phase)
        mine = [one for one in found if one.part == "forward" and one.read_bytes > 2000]
        assert {one.elements for one in mine} == {0, *counted}


@pytest.mark.parametrize(("phase", "reads"), [("infer", 1), ("train", 2)])
def test_batch_normalisation_reads_its_input_twice_in_training(phase, reads):
    model = nn.Sequential(nn.Conv2d(8, 8, 1, bias=False), nn.BatchNorm2d(8))
    found = operators(model, phase)
    forward = next(one for one in of_kind(found, "normalization") if one.part == "forward")
    assert forward.read_bytes == reads * 4 * 2 * 8 * 36
    if phase == "train":
        backward = next(one for one in of_kind(found, "normalization") if one.part == "backward")
        assert backward.read_bytes == 4 * 4 * 2 * 8 * 36


@pytest.mark.parametrize(
    ("layer", "shape", "product"),
    [
        (nn.Linear(6, 5), (6,), MatrixProduct(1, 2, 5, 6)),
        (nn.Linear(6, 5, bias=False), (7, 6), MatrixProduct(1, 14, 5, 6)),
    ],
)
def test_matrix_products(layer, shape, product):
    assert only(operators(layer, shape=shape), "matrix_product").product == product


class Batched(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3, 4, 5))

    def forward(self, x):
        return torch.baddbmm(x.new_zeros(3, 1, 5), x.expand(3, 2, 4), self.weight)


def test_batched_matrix_products():
    with FlopCounterMode(display=False) as counter:
        Batched()(torch.zeros(2, 4))
    step = trace_step(Batched(), "infer", 2, (4,))
    assert only(step.operators, "matrix_product").product == MatrixProduct(3, 2, 5, 4)
    assert step.flops == counter.get_total_flops()


class Attention(nn.Module):
    def __init__(self, causal=False):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.causal = causal

    def forward(self, x):
        x = (x * self.scale).unflatten(-1, (4, 8)).transpose(1, 2)
        return F.scaled_dot_product_attention(x, x, x, is_causal=self.causal).flatten(2)


def test_attention_is_one_operator_that_never_writes_its_scores():
    step = trace_step(Attention(), "train", 2, (16, 32))
    forward, backward = of_kind(step.operators, "attention")
    products = 2 * 2 * 4 * 16 * 16 * 8  # batch, heads, queries, keys, depth
    assert forward.flops == 2 * products
    assert backward.flops == 5 * products
    assert forward.written_bytes == 4 * 2 * 4 * 16 * 8
    scores = 4 * 2 * 4 * 16 * 16
    assert all(one.written_bytes < scores for one in step.operators if one.part == "forward")
    causal = trace_step(Attention(causal=True), "infer", 2, (16, 32))
    assert causal.flops == products


@pytest.mark.parametrize("phase", ["infer", "train"])
def test_pytorchs_transformer_layer_counts_as_fused_attention(phase):
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
    found = operators(layer, phase, shape=(16, 32))
    assert any(one.part == "forward" for one in of_kind(found, "attention"))


@pytest.mark.parametrize("phase", ["infer", "train"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_shortcuts_for_shapes_agree_with_pytorch(monkeypatch, dtype, phase):
    layers = [nn.Conv2d(8, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(96, 4)]
    model = nn.Sequential(*layers).to(dtype)
    short = trace_step(model, phase, 2, (8, 6, 6))
    monkeypatch.setattr(step_tracing, "_SHAPES", {})
    assert short == trace_step(model, phase, 2, (8, 6, 6))


def test_dropout_is_one_kernel():
    def forward_calls(*layers):
        return trace_step(nn.Sequential(*layers), "train", 2, (4,)).calls("forward")

    assert forward_calls(nn.Linear(4, 4), nn.Dropout(0.5)) == forward_calls(nn.Linear(4, 4)) + 1


def test_an_embedding_reads_only_the_rows_it_needs():
    model = nn.Sequential(nn.Embedding(100_000, 16), nn.Linear(16, 2))
    step = trace_step(model, "infer", 2, (5,))
    assert max(one.read_bytes for one in step.operators) < 16 * 100_000


def test_views_start_no_kernel():
    found = operators(nn.Sequential(nn.Flatten(), nn.Unflatten(1, (2, 144))))
    assert not found


def test_the_optimiser_reads_and_writes_every_parameter():
    step = trace_step(nn.Linear(10, 10, bias=False), "train", 2, (10,))
    found = of_kind(step.operators, "optimizer")
    assert sum(one.read_bytes * step.operators[one] for one in found) == 5 * 400
    assert sum(one.written_bytes * step.operators[one] for one in found) == 3 * 400
    assert step.parameter_tensors == 1
    assert trace_step(nn.Linear(10, 10), "infer", 2, (10,)).parameter_tensors == 0


@settings(max_examples=25)
@given(st.integers(1, 512), st.sampled_from(["train", "infer"]))
def test_flops_grow_with_the_batch_and_launches_do_not(batch, phase):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))
    one, many = (trace_step(model, phase, size, (3, 8, 8)) for size in (1, batch))
    assert many.flops == batch * one.flops
    assert many.launches == one.launches
    assert one.bytes <= many.bytes <= batch * one.bytes


def test_the_model_is_not_modified():
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout()).eval()
    model[1].train()
    before = {key: one.clone() for key, one in model.state_dict().items()}
    trace_step(model, "train", 8, (4,))
    assert [module.training for module in model] == [False, True, False]
    assert all(one.grad is None for one in model.parameters())
    assert all(torch.equal(before[key], one) for key, one in model.state_dict().items())
    fused = F.scaled_dot_product_attention
    assert fused.__module__ != "joulelab.predict.step_tracing"


def test_frozen_parameters_are_not_trained():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[0].requires_grad_(False)
    assert trace_step(model, "train", 2, (4,)).parameter_tensors == 2


class Several(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x):
        return {"out": self.first(x), "aux": self.second(x)} if self.training else self.first(x)


def test_auxiliary_outputs_are_trained_too():
    assert trace_step(Several(), "train", 2, (4,)).parameter_tensors == 4


def test_the_zoo_uses_every_kind_of_operator_but_attention(h100_steps):
    kinds = {one.kind for step in h100_steps for one in step.operators}
    assert kinds == set(KINDS) - {"attention"}


class ReadsItsWeight(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return x if float(self.weight) > 0 else -x


@pytest.mark.parametrize(
    ("model", "phase", "batch", "shape", "message"),
    [
        (nn.Linear(4, 4), "train", 2, (5,), "Linear does not accept 2x5 for train"),
        (nn.Linear(4, 4), "test", 2, (4,), "no phase 'test'"),
        (nn.Linear(4, 4), "train", 0, (4,), "it is empty"),
        (nn.Linear(4, 4), "train", 1, (0,), "it is empty"),
        (nn.Flatten(), "train", 1, (4,), "the model cannot be trained"),
        (ReadsItsWeight(), "infer", 1, (4,), "ReadsItsWeight does not accept 1x4 for infer"),
    ],
)
def test_errors_name_the_model_and_the_shape_in_one_line(model, phase, batch, shape, message):
    with pytest.raises(UserError, match=message) as caught:
        trace_step(model, phase, batch, shape)
    assert "\n" not in str(caught.value)
