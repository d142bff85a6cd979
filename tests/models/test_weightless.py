"""Models whose parameters take no memory; ``test_zoo`` covers those of the zoo."""

import pytest
import torch
from torch import nn

from joulelab.models.registry import build_model
from joulelab.models.weightless import weightless


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
