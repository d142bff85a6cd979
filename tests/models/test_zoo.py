"""The architectures of the zoo: equal to the published table, trainable, correct in inference.

``data/zoo_characteristics.csv`` has the values of the public PyTorch CIFAR-10 model collection
(github.com/kuangliu/pytorch-cifar) for 10 classes and 3x32x32 images, counted with PyTorch's own
FLOP counter.
"""

import csv
from pathlib import Path

import pytest
import torch
from torch import nn

from joulelab.models.characteristics import characterize, weightless
from joulelab.models.depthwise_models import DropBranch
from joulelab.models.registry import ZOO, build_model, zoo_names

TABLE = Path(__file__).parent / "data" / "zoo_characteristics.csv"
COLUMNS = (
    "parameters",
    "trainable_parameters",
    "parameter_bytes",
    "buffer_bytes",
    "size_bytes",
    "macs",
)
NEVER_RUN = {"EfficientNetB0": ("1.expand.0.weight", "1.expand.1.weight", "1.expand.1.bias")}


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module", params=ZOO)
def zoo(request):
    """A model with its name, built once for all tests. Each test leaves it usable for the next."""
    torch.manual_seed(0)
    return request.param, build_model(request.param)


def published():
    with TABLE.open(newline="") as file:
        return {
            row["model"]: {key: int(row[key]) for key in COLUMNS} for row in csv.DictReader(file)
        }


def test_the_table_lists_the_whole_zoo():
    assert set(published()) == set(ZOO)
    assert len(zoo_names()) == 16


def test_characteristics_equal_the_table(zoo):
    name, model = zoo
    counted = characterize(model)
    assert {key: getattr(counted, key) for key in COLUMNS} == published()[name]
    assert counted.macs_per_parameter == counted.macs / counted.parameters


def test_without_weights_the_parameters_are_the_same(zoo):
    name, model = zoo
    with weightless():
        light = build_model(name)
    assert {parameter.device.type for parameter in light.parameters()} == {"meta"}
    assert {key: one.shape for key, one in light.named_parameters()} == {
        key: one.shape for key, one in model.named_parameters()
    }


def test_trains_a_step_and_infers_a_batch(zoo):
    name, model = zoo
    images, labels = torch.randn(2, 3, 32, 32), torch.tensor([3, 7])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001, momentum=0.9, weight_decay=5e-4)

    scores = model.train()(images)
    loss = nn.functional.cross_entropy(scores, labels)
    loss.backward()

    assert scores.shape == (2, 10)
    assert torch.isfinite(loss)
    without = [key for key, parameter in model.named_parameters() if parameter.grad is None]
    assert without == list(NEVER_RUN.get(name, ()))
    before = [parameter.detach().clone() for parameter in model.parameters()]
    optimizer.step()
    assert any(
        not torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True)
    )

    with torch.inference_mode():
        assert torch.isfinite(model.eval()(images)).all()


def use_statistics_of(images, model):
    """Without them, the scores of an untrained deep model are the same for every image."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        model.train()(images)


def test_inference_does_not_depend_on_the_rest_of_the_batch_or_the_memory_format(zoo):
    _, model = zoo
    images = torch.randn(3, 3, 32, 32)
    use_statistics_of(images, model)
    model.eval()
    with torch.inference_mode():
        together = model(images)
        alone = model.to(memory_format=torch.channels_last)(
            images[1:2].contiguous(memory_format=torch.channels_last)
        )
    torch.testing.assert_close(alone, together[1:2], rtol=1e-3, atol=1e-4)
    assert not torch.allclose(together[0], together[1], rtol=0.01), "ignores its input"


@pytest.mark.parametrize("name", zoo_names())
def test_accepts_other_classes_and_channels_and_runs_in_bf16(name):
    model = build_model(name, num_classes=7, in_channels=1).eval()
    with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
        scores = model(torch.randn(2, 1, 32, 32))
    assert scores.shape == (2, 7)
    assert scores.dtype == torch.bfloat16


@pytest.mark.parametrize("name", ["LeNet", "EfficientNetB0"])
def test_trains_in_bf16(name):
    model = build_model(name)
    with torch.autocast("cpu", torch.bfloat16):
        loss = nn.functional.cross_entropy(model(torch.randn(2, 3, 32, 32)), torch.tensor([0, 1]))
    loss.backward()
    assert torch.isfinite(loss)


@pytest.mark.parametrize("name", ["ResNet18", "VGG16", "ShuffleNetV2"])
def test_accepts_other_image_sizes(name):
    with weightless():
        model = build_model(name)
    assert characterize(model, (3, 64, 64)).macs > published()[name]["macs"]


def test_drop_branch_drops_whole_samples_keeps_the_mean_and_rests_in_evaluation():
    drop = DropBranch(0.25)
    dropped = drop(torch.ones(4000, 2, 3, 3))
    per_sample = dropped.flatten(1)
    assert torch.equal(per_sample.amin(1), per_sample.amax(1))
    assert sorted(set(per_sample[:, 0].tolist())) == pytest.approx([0, 1 / 0.75])
    assert dropped.mean().item() == pytest.approx(1, abs=0.05)
    ones = torch.ones(2, 1, 1, 1)
    assert drop.eval()(ones) is ones


def test_efficientnet_drops_only_where_it_is_asked_to():
    with weightless():
        model = build_model("EfficientNetB0")
        still = build_model("EfficientNetB0", dropout=0, drop_branch=0)
    rates = [m.probability for m in model.modules() if isinstance(m, DropBranch)]
    assert rates[0] == 0
    assert rates == sorted(rates)
    assert rates[-1] == pytest.approx(0.2 * 15 / 16)
    assert all(m.probability == 0 for m in still.modules() if isinstance(m, DropBranch))
    assert not any(isinstance(m, nn.Dropout) for m in still.modules())
