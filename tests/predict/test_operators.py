"""Operators of a traced step: kinds, FLOPs, bytes, launches."""

import math

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from joulelab.errors import UserError
from joulelab.models.characteristics import characterize
from joulelab.models.registry import build_model, zoo_names
from joulelab.models.weightless import weightless
from joulelab.predict.operators import KINDS, Product
from joulelab.predict.tracing import trace_step


def operators(model, phase="infer", batch=2, shape=(8, 6, 6)):
    return trace_step(model, phase, batch, shape).operators


def of_kind(found, kind):
    return [one for one in found if one.kind == kind]


def only(found, kind):
    (one,) = of_kind(found, kind)
    return one


@pytest.mark.parametrize("name", zoo_names())
def test_flops_of_inference_are_those_of_pytorchs_counter(name):
    with weightless():
        model = build_model(name)
    step = trace_step(model, "infer", 4, (3, 32, 32))
    assert step.flops == 2 * 4 * characterize(model, (3, 32, 32)).macs


@pytest.mark.parametrize("name", ["ResNet18", "MobileNetV2", "RegNetX_200MF"])
def test_training_is_three_times_the_flops_but_for_the_first_layers_image(name):
    with weightless():
        model = build_model(name)
    infer, train = (trace_step(model, phase, 4, (3, 32, 32)) for phase in ("infer", "train"))
    first = next(one for one in infer.operators if one.kind == "convolution")
    assert train.flops == 3 * infer.flops - first.flops


def test_a_dense_convolution():
    found = operators(nn.Conv2d(8, 16, 3, padding=1, bias=False))
    one = only(found, "convolution")
    assert one.flops == 2 * (2 * 36) * 16 * 8 * 9
    assert one.product == Product(1, 2 * 36, 16, 72)
    assert one.read_bytes == 4 * (2 * 8 * 36 + 16 * 72)
    assert one.written_bytes == 4 * 2 * 16 * 36
    assert sum(found.values()) == 1


@pytest.mark.parametrize(
    ("layer", "kind", "product"),
    [
        (nn.Conv2d(8, 4, 1), "pointwise_convolution", Product(1, 72, 4, 8)),
        (nn.Conv2d(8, 16, 3, padding=1, groups=2), "grouped_convolution", Product(2, 72, 8, 36)),
        (nn.Conv2d(8, 8, 3, padding=1, groups=8), "depthwise_convolution", Product(8, 72, 1, 9)),
        (nn.Conv2d(8, 16, 3, padding=1, groups=8), "depthwise_convolution", Product(8, 72, 2, 9)),
        (nn.ConvTranspose2d(8, 4, 2, 2), "convolution", Product(1, 288, 4, 8)),
    ],
)
def test_kinds_of_convolutions(layer, kind, product):
    one = only(operators(layer), kind)
    assert one.product == product
    assert one.flops == 2 * math.prod(product)


def test_gradients_of_a_convolution_are_operators_of_one_call():
    model = nn.Sequential(nn.Conv2d(8, 8, 1), nn.Conv2d(8, 16, 3, padding=1, bias=True))
    found = operators(model, "train")
    backward = [one for one in of_kind(found, "convolution") if one.part == "backward"]
    assert {one.product for one in backward} == {
        Product(1, 72, 8, 144),  # of the image
        Product(1, 16, 72, 72),  # of the weights
    }
    assert sorted(one.calls for one in backward) == [0, 1]
    assert any(one.kind == "reduction" and one.calls == 0 for one in found)  # of the bias


def test_depthwise_weights_have_a_gradient_of_their_own_kind():
    found = operators(nn.Sequential(nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8)), "train")
    assert only(found, "depthwise_weight_gradient").part == "backward"


def test_the_bias_of_a_library_convolution_is_added_by_a_kernel_of_its_own():
    found = operators(nn.Conv2d(8, 16, 3, padding=1))
    added = only(found, "elementwise")
    assert added.calls == 0
    assert added.read_bytes == added.written_bytes == 4 * 2 * 16 * 36


@pytest.mark.parametrize(("phase", "reads"), [("infer", 1), ("train", 2)])
def test_batch_normalisation_reads_its_input_once_more_in_training(phase, reads):
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
        (nn.Linear(6, 5), (6,), Product(1, 2, 5, 6)),
        (nn.Linear(6, 5, bias=False), (7, 6), Product(1, 14, 5, 6)),
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


def test_products_of_a_batch_of_matrices():
    with FlopCounterMode(display=False) as counter:
        Batched()(torch.zeros(2, 4))
    step = trace_step(Batched(), "infer", 2, (4,))
    assert only(step.operators, "matrix_product").product == Product(3, 2, 5, 4)
    assert step.flops == counter.get_total_flops()


class Attention(nn.Module):
    def __init__(self, causal=False):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.causal = causal

    def forward(self, x):
        x = (x * self.scale).unflatten(-1, (4, 8)).transpose(1, 2)
        return F.scaled_dot_product_attention(x, x, x, is_causal=self.causal).flatten(2)


def test_attention_is_one_operator_and_never_writes_its_scores():
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
def test_pytorchs_own_attention_layer_is_seen_as_fused(phase):
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
    found = operators(layer, phase, shape=(16, 32))
    assert any(one.part == "forward" for one in of_kind(found, "attention"))


def test_dropout_is_one_kernel():
    def forward_calls(*layers):
        return trace_step(nn.Sequential(*layers), "train", 2, (4,)).calls("forward")

    assert forward_calls(nn.Linear(4, 4), nn.Dropout(0.5)) == forward_calls(nn.Linear(4, 4)) + 1


def test_an_embedding_reads_what_it_looks_up():
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


@given(st.integers(1, 512), st.sampled_from(["train", "infer"]))
def test_flops_grow_with_the_batch_and_launches_do_not(batch, phase):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))
    one, many = (trace_step(model, phase, size, (3, 8, 8)) for size in (1, batch))
    assert many.flops == batch * one.flops
    assert many.launches == one.launches
    assert one.bytes <= many.bytes <= batch * one.bytes


def test_the_model_is_left_as_it_was():
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout()).eval()
    model[1].train()
    before = {key: one.clone() for key, one in model.state_dict().items()}
    trace_step(model, "train", 8, (4,))
    assert [module.training for module in model] == [False, True, False]
    assert all(one.grad is None for one in model.parameters())
    assert all(torch.equal(before[key], one) for key, one in model.state_dict().items())
    fused = F.scaled_dot_product_attention
    assert fused.__module__ != "joulelab.predict.attention"


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


def test_every_output_that_can_be_trained_is():
    assert trace_step(Several(), "train", 2, (4,)).parameter_tensors == 4


def test_every_kind_is_listed():
    names = ["EfficientNetB0", "DPN26", "torchvision:vit_b_32"]
    kinds = set()
    for name in names:
        with weightless():
            model = build_model(name)
        shape = (3, 224, 224) if "vit" in name else (3, 32, 32)
        kinds |= {one.kind for one in trace_step(model, "train", 2, shape).operators}
    assert kinds == set(KINDS)


class Peeks(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return x if float(self.weight) > 0 else -x


@pytest.mark.parametrize(
    ("model", "phase", "batch", "shape", "message"),
    [
        (nn.Linear(4, 4), "train", 2, (5,), "Linear does not take 2x5 for train"),
        (nn.Linear(4, 4), "test", 2, (4,), "no phase 'test'"),
        (nn.Linear(4, 4), "train", 0, (4,), "it is empty"),
        (nn.Linear(4, 4), "train", 1, (0,), "it is empty"),
        (nn.Flatten(), "train", 1, (4,), "the model cannot be trained"),
        (Peeks(), "infer", 1, (4,), "Peeks does not take 1x4 for infer"),
    ],
)
def test_what_cannot_be_traced_is_told_in_one_line(model, phase, batch, shape, message):
    with pytest.raises(UserError, match=message) as caught:
        trace_step(model, phase, batch, shape)
    assert "\n" not in str(caught.value)
