from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulelab.errors import UserError
from joulelab.workloads.phases import InferSettings, TrainSettings


def test_the_defaults_are_the_papers_hyperparameters():
    settings = TrainSettings()
    assert (settings.batch_size, settings.optimizer, settings.learning_rate) == (128, "sgd", 0.001)
    assert (settings.momentum, settings.weight_decay, settings.epochs) == (0.9, 5e-4, 1)
    assert InferSettings().passes == 5


@pytest.mark.parametrize("length", [{"steps": 3}, {"seconds": 2.5}, {"seconds": 2}])
def test_another_length_replaces_the_default_one(length):
    assert TrainSettings(**length).epochs is None
    assert InferSettings(**length).passes is None


def test_two_lengths_are_refused():
    with pytest.raises(UserError, match="epochs and steps are both given"):
        TrainSettings(epochs=1, steps=3)
    with pytest.raises(UserError, match="passes and steps are both given"):
        InferSettings(passes=1, steps=3, seconds=2.0)


@pytest.mark.parametrize("length", [{"steps": 3}, {"epochs": 2}])
def test_seconds_may_bound_another_length(length):
    settings = TrainSettings(seconds=2.5, **length)
    assert settings.seconds == 2.5
    assert {name: getattr(settings, name) for name in length} == length


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("batch_size", 0),
        ("batch_size", 12.0),
        ("batch_size", True),
        ("epochs", 0),
        ("steps", -1),
        ("seconds", 0),
        ("seconds", float("nan")),
        ("seconds", float("inf")),
        ("warmup_steps", -1),
        ("optimizer", "sdg"),
        ("learning_rate", 0),
        ("learning_rate", "fast"),
        ("momentum", 1.0),
        ("momentum", -0.1),
        ("weight_decay", -1e-4),
        ("precision", "fp16"),
        ("memory_format", "nhwc"),
        ("compile", 1),
        ("input_path", "disk"),
        ("loader_workers", -1),
        ("augment", "yes"),
        ("validate", None),
        ("seed", -1),
        ("device", "gpu"),
        ("device", "cuda:"),
        ("device", "cuda:-1"),
        ("device", "cpu:0"),
        ("device", 0),
        ("cudnn_benchmark", "on"),
    ],
)
def test_a_wrong_value_is_named(name, value):
    with pytest.raises(UserError, match=name) as caught:
        TrainSettings(**{name: value})
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_the_nearest_choice_is_suggested():
    with pytest.raises(UserError, match=r"did you mean sgd\?"):
        TrainSettings(optimizer="sdg")


def test_tf32_is_refused_where_it_would_be_fp32():
    with pytest.raises(UserError, match="tf32"):
        InferSettings(precision="tf32", device="cpu")
    assert InferSettings(precision="tf32", device="cuda:1").precision == "tf32"


@given(st.integers(1, 10**6), st.floats(1e-9, 1e3), st.floats(0, 0.999))
def test_values_in_range_are_accepted(batch_size, learning_rate, momentum):
    settings = TrainSettings(batch_size=batch_size, learning_rate=learning_rate, momentum=momentum)
    assert (settings.batch_size, settings.learning_rate) == (batch_size, learning_rate)
    assert settings.momentum == momentum
