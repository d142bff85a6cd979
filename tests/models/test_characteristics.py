"""Characteristics compared with values derived by hand, and models without memory for weights."""

import copy
import types

import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F  # noqa: N812

from joulelab.errors import UserError
from joulelab.models.characteristics import characterize, weightless
from joulelab.models.registry import build_model


class Apply(nn.Module):
    """A module without parameters from a function."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class ReadsItsData(nn.Module):
    """Fails on tensors without data; counts its own calls in a buffer."""

    def __init__(self, inner, failing=False):
        super().__init__()
        self.inner = inner
        self.failing = failing
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, x):
        self.calls += 1
        assert not self.failing or bool(torch.rand(1) < 0), "always fails\nand adds more"
        noise = torch.rand(1).item()
        return self.inner(x + noise * 0)


def attention(x):
    return F.scaled_dot_product_attention(x, x, x, is_causal=True)


ENCODER = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
ENCODER_MACS = 5 * 16 * 48 + 2 * 5 * 5 * 16 + 5 * 16 * 16 + 2 * 5 * 16 * 32
COUNTED = [
    ("linear", nn.Linear(8, 4), (8,), 8 * 4),
    ("linear on a sequence", nn.Linear(8, 4, bias=False), (5, 8), 5 * 8 * 4),
    ("convolution", nn.Conv2d(4, 6, 3), (4, 5, 5), 3 * 3 * 6 * 4 * 9),
    ("strided", nn.Conv2d(4, 6, 3, stride=2, padding=1), (4, 5, 5), 3 * 3 * 6 * 4 * 9),
    ("grouped", nn.Conv2d(4, 6, 3, groups=2), (4, 5, 5), 3 * 3 * 6 * 2 * 9),
    ("depthwise", nn.Conv2d(4, 4, 3, groups=4, padding=1), (4, 5, 5), 5 * 5 * 4 * 9),
    ("1x1", nn.Conv2d(4, 6, 1), (4, 5, 5), 5 * 5 * 4 * 6),
    ("dilated", nn.Conv2d(2, 3, 3, dilation=2), (2, 7, 7), 3 * 3 * 2 * 3 * 9),
    ("1 dimension", nn.Conv1d(2, 3, 5), (2, 9), 5 * 2 * 3 * 5),
    ("3 dimensions", nn.Conv3d(2, 3, 3), (2, 4, 4, 4), 2**3 * 2 * 3 * 27),
    ("transposed", nn.ConvTranspose2d(4, 6, 3, stride=2), (4, 5, 5), 5 * 5 * 4 * 6 * 9),
    ("bmm", Apply(lambda x: torch.bmm(x, x.mT)), (5, 3), 5 * 5 * 3),
    ("einsum", Apply(lambda x: torch.einsum("bij,bkj->bik", x, x)), (5, 3), 5 * 5 * 3),
    ("attention", Apply(attention), (2, 5, 8), 2 * 2 * 5 * 5 * 8),
    ("encoder layer", ENCODER, (5, 16), ENCODER_MACS),
    ("lstm", nn.LSTM(8, 16, batch_first=True), (5, 8), 5 * 4 * 16 * (8 + 16)),
    ("gru", nn.GRU(8, 16, batch_first=True), (5, 8), 5 * 3 * 16 * (8 + 16)),
    ("rnn", nn.RNN(8, 16, batch_first=True), (5, 8), 5 * 16 * (8 + 16)),
    (
        "norm and pooling",
        nn.Sequential(nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)),
        (4, 4, 4),
        0,
    ),
]


@pytest.mark.parametrize(
    ("model", "shape", "macs"), [row[1:] for row in COUNTED], ids=[row[0] for row in COUNTED]
)
def test_macs_equal_values_derived_by_hand(model, shape, macs):
    assert characterize(model, shape).macs == macs


HIDDEN = [
    row for row in COUNTED if row[0] in ("convolution", "attention", "encoder layer", "lstm", "gru")
]


@pytest.mark.parametrize(
    ("model", "shape", "macs"), [row[1:] for row in HIDDEN], ids=[row[0] for row in HIDDEN]
)
def test_a_real_pass_counts_the_same(model, shape, macs):
    assert characterize(ReadsItsData(model), shape).macs == macs


@given(
    st.integers(1, 3),
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(1, 5),
    st.integers(1, 3),
    st.integers(0, 2),
    st.integers(5, 12),
)
def test_any_convolution(groups, into, out, kernel, stride, padding, side):
    model = nn.Conv2d(groups * into, groups * out, kernel, stride, padding, groups=groups)
    out_side = (side + 2 * padding - kernel) // stride + 1
    counted = characterize(model, (groups * into, side, side))
    assert counted.macs == out_side**2 * groups * out * into * kernel**2
    assert counted.parameters == groups * out * (into * kernel**2 + 1)


def test_frozen_layers_count_as_parameters_but_not_as_trainable():
    model = nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 2))
    model[0].requires_grad_(False)
    counted = characterize(model, (8,))
    assert (counted.parameters, counted.trainable_parameters) == (46, 10)
    assert counted.macs == 8 * 4 + 4 * 2
    assert not model[0].weight.requires_grad


def test_shared_parameters_and_buffers_count_once():
    first, second = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
    second.weight = first.weight
    norm = nn.BatchNorm1d(4, affine=False)
    counted = characterize(nn.Sequential(first, norm, second, norm), (4,))
    assert counted.parameters == 16
    assert counted.buffer_bytes == (4 + 4) * 4 + 8
    assert counted.macs == 32


def test_buffers_that_are_not_saved_and_scalars_count():
    model = nn.Linear(4, 4)
    model.register_buffer("unsaved", torch.zeros(10, dtype=torch.float64), persistent=False)
    model.register_buffer("packed", torch.zeros(100, dtype=torch.int8))
    model.scale = nn.Parameter(torch.tensor(1.0))
    counted = characterize(model, (4,))
    assert counted.buffer_bytes == 80 + 100
    assert counted.parameters == 21
    assert counted.size_bytes == 21 * 4 + 180


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_bytes_follow_the_type(dtype):
    counted = characterize(nn.Conv2d(3, 4, 3).to(dtype), (3, 8, 8))
    assert counted.parameter_bytes == counted.parameters * dtype.itemsize
    assert counted.macs == 6 * 6 * 3 * 4 * 9


def test_without_parameters_there_is_no_ratio():
    counted = characterize(nn.Identity(), (4,))
    assert (counted.parameters, counted.macs, counted.macs_per_parameter) == (0, 0, None)


def mixed_modes():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.Flatten(), nn.Linear(144, 2)
    )
    model[1].eval()
    return model


def global_settings():
    return (
        torch.backends.mha.get_fastpath_enabled(),
        torch.backends.mkldnn.enabled,
        torch.backends.cudnn.enabled,
        torch.backends.cuda.math_sdp_enabled(),
        torch.backends.cuda.flash_sdp_enabled(),
        torch.is_grad_enabled(),
        torch.get_default_device(),
    )


@pytest.mark.parametrize("wrap", [lambda m: m, ReadsItsData], ids=["meta", "real"])
def test_the_model_and_global_settings_are_restored(wrap):
    model = wrap(mixed_modes())
    modes = [module.training for module in model.modules()]
    state = copy.deepcopy(model.state_dict())
    random = torch.get_rng_state()
    settings = global_settings()
    characterize(model, (3, 8, 8))
    assert [module.training for module in model.modules()] == modes
    assert len(set(modes)) == 2
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[key]), key
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(parameter.device.type == "cpu" for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), random)
    assert global_settings() == settings


def test_a_failure_restores_the_modes_and_gives_the_reason_in_one_line():
    model = ReadsItsData(mixed_modes(), failing=True)
    modes = [module.training for module in model.modules()]
    with pytest.raises(UserError, match=r"^Net does not accept 3x8x8: always fails$"):
        characterize(model, (3, 8, 8), name="Net")
    assert [module.training for module in model.modules()] == modes
    assert model.calls == 0


def test_a_tensor_that_is_not_a_buffer_is_no_obstacle():
    offset = torch.ones(4)
    assert (
        characterize(nn.Sequential(nn.Linear(4, 4), Apply(lambda x: x + offset)), (4,)).macs == 16
    )


def test_a_model_larger_than_memory_costs_nothing():
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(10**6, 10**6), nn.Linear(10**6, 1))
    counted = characterize(model, (10**6,))
    assert counted.macs == 10**12 + 10**6
    assert counted.parameter_bytes == 4 * counted.parameters


@pytest.mark.parametrize(
    ("model", "shape", "message"),
    [
        (nn.LazyLinear(4), (8,), "lazily initialised.*run one batch"),
        (nn.Linear(8, 4), (7,), r"Linear does not accept 7: .*\(1x7 and 8x4\)"),
        (nn.Linear(8, 4), (0,), "no sample has the shape 0"),
    ],
)
def test_errors_state_why_a_model_cannot_be_characterized(model, shape, message):
    with pytest.raises(UserError, match=message):
        characterize(model, shape)


def quantized():
    model = nn.Sequential(nn.Linear(4, 4))
    return torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)


def scripted():
    return nn.Sequential(nn.ReLU(), torch.jit.script(nn.Linear(4, 4)))


@pytest.mark.filterwarnings("ignore:.*deprecated")
@pytest.mark.parametrize("build", [quantized, scripted])
def test_hidden_weights_are_refused(build):
    with pytest.raises(UserError, match="size and work of Net cannot be counted"):
        characterize(build(), (4,), name="Net")


def devices(model):
    return {parameter.device.type for parameter in model.parameters()}


@pytest.mark.parametrize(
    "name", ["convnext_tiny", "swin_t", "vit_b_16", "regnet_y_400mf", "googlenet", "maxvit_t"]
)
def test_constructors_that_read_data_work(name):
    with weightless():
        options = {"input_size": (224, 224)} if name == "maxvit_t" else {}
        model = build_model(f"torchvision:{name}", num_classes=10, **options)
    assert devices(model) == {"meta"}


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(10, 4)
        self.head = nn.Linear(4, 10, bias=False)
        self.head.weight = self.embedding.weight
        shared = nn.Parameter(torch.ones(3))
        self.first, self.second = shared, shared
        self.third = self.first


def test_shared_parameters_stay_shared():
    with weightless():
        model = Tied()
    assert model.head.weight is model.embedding.weight
    assert model.first is model.second is model.third
    assert sum(one.numel() for one in model.parameters()) == 43


def test_buffers_are_real_and_parameters_keep_their_type():
    with weightless():
        norm = nn.BatchNorm1d(3)
        frozen = nn.Module()
        frozen.weight = nn.Parameter(torch.zeros(2, dtype=torch.float64), requires_grad=False)
    assert torch.equal(norm.running_var, torch.ones(3))
    assert not frozen.weight.requires_grad
    assert frozen.weight.dtype == torch.float64


def test_models_have_weights_again_afterwards_even_after_an_error():
    with pytest.raises(RuntimeError), weightless():
        raise RuntimeError
    assert nn.Linear(2, 2).weight.device.type == "cpu"


def test_a_parameter_may_be_absent():
    with weightless():
        assert nn.Linear(2, 2, bias=False).bias is None


def test_a_model_that_refuses_meta_tensors_is_counted_without_memory():
    class Casting(nn.Linear):  # transformers 4 computes rotary positions in this way
        def forward(self, x):
            with torch.autocast(device_type=x.device.type, enabled=False):
                return super().forward(x)

    with weightless():
        model = Casting(10_000, 10_000)
    assert characterize(model, (10_000,)).macs == 10**8
    assert model.weight.is_meta


def test_a_model_that_reads_its_data_must_fit_into_memory(monkeypatch):
    class Reading(nn.Linear):
        def forward(self, x):
            return super().forward(x) * x.sum().item()

    with weightless():
        model = Reading(100, 100)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: types.SimpleNamespace(available=4e4))
    with pytest.raises(UserError, match=r"needs 40\.4 kB of memory for it where 40\.0 kB are"):
        characterize(model, (100,))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: types.SimpleNamespace(available=5e4))
    assert characterize(model, (100,)).macs == 10**4
