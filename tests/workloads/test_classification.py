from __future__ import annotations

import copy
import dataclasses
import math

import pytest
import torch
from torch import nn

from joulelab.errors import UserError, WorkloadError
from joulelab.workloads.classification import infer, train
from joulelab.workloads.datasets import load_dataset
from joulelab.workloads.phases import InferSettings, TrainSettings

# Python 3.12 warns about forking a process with threads, which is how the loader starts workers.
fork_is_fine = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")


# PyTorch's compiler uses deprecated functions, and recommends TF32 to users of fp32.
compiling_is_fine = pytest.mark.filterwarnings(
    "ignore:.*torch.jit:DeprecationWarning", "ignore:TensorFloat32 tensor cores:UserWarning"
)


def training(**options):
    return TrainSettings(**{"batch_size": 16, "warmup_steps": 2, "learning_rate": 0.05, **options})


def inference(**options):
    return InferSettings(**{"batch_size": 16, "warmup_steps": 2, **options})


def learned(result):
    return [(e.loss, e.train_accuracy_pct, e.accuracy_pct) for e in result.epochs]


# announcements


def test_training_announces_warmup_epochs_and_validation(network, small, recorder):
    train(network, small, training(epochs=2), recorder)
    assert recorder.calls == [
        (what, name, attributes)
        for name, attributes in [
            ("warmup", {"phase": "train"}),
            ("epoch", {"phase": "train", "index": 0}),
            ("validate", {"phase": "train", "index": 0}),
            ("epoch", {"phase": "train", "index": 1}),
            ("validate", {"phase": "train", "index": 1}),
        ]
        for what in ("begin", "end")
    ]


def test_inference_announces_warmup_and_passes(network, small, recorder):
    infer(network, small, inference(), recorder)
    assert recorder.spans("warmup") == [{"phase": "infer"}]
    assert recorder.spans("epoch") == [{"phase": "infer", "index": i} for i in range(5)]
    assert recorder.balanced


def test_disabled_parts_are_not_announced(network, small, recorder):
    train(network, small, training(warmup_steps=0, validate=False), recorder)
    assert {name for _, name, _ in recorder.calls} == {"epoch"}


def test_steps_are_announced_on_request_within_their_epoch(network, small, recorder):
    result = train(network, small, training(), recorder, announce_steps=True)
    samples = [16, 16, 16, 16, 6]
    assert recorder.spans("step") == [
        {"phase": "train", "index": i, "samples": n} for i, n in enumerate(samples)
    ]
    assert (result.samples, result.steps) == (70, 5)
    assert recorder.balanced


def test_training_and_inference_end_after_the_step_that_was_the_last(network, small, recorder):
    for phase, settings in ((train, training(epochs=9)), (infer, inference(passes=9))):
        recorder.calls.clear()
        options = {"announce_steps": True, "is_over": lambda: len(recorder.spans("step")) == 7}
        assert phase(network, small, settings, recorder, **options).steps == 7


def test_spans_are_ended_when_the_model_fails(small, recorder):
    with pytest.raises(WorkloadError):
        train(nn.Linear(7, 10), small, training(), recorder)
    assert recorder.spans("warmup")
    assert recorder.balanced


# lengths


def test_epochs_see_every_image(network, small):
    result = train(network, small, training(epochs=2), None)
    assert (result.samples, result.steps) == (140, 10)
    assert all(epoch.complete for epoch in result.epochs)
    assert [epoch.index for epoch in result.epochs] == [0, 1]


def test_the_test_set_is_inferred_five_times(network, small):
    result = infer(network, small, inference(), None)
    assert (result.samples, result.steps, len(result.epochs)) == (150, 10, 5)


@pytest.mark.parametrize(("steps", "per_epoch"), [(3, [3]), (5, [5]), (7, [5, 2]), (10, [5, 5])])
def test_steps_are_cut_into_epochs(network, small, steps, per_epoch):
    result = train(network, small, training(steps=steps, validate=False), None)
    assert [epoch.steps for epoch in result.epochs] == per_epoch
    assert [epoch.complete for epoch in result.epochs] == [n == 5 for n in per_epoch]


def test_seconds_end_with_the_step_that_reaches_them(network, small, clock):
    class OneSecondSteps(nn.Module):
        def forward(self, images):
            clock.now_s += 1
            return network(images)

    settings = inference(seconds=4.5, warmup_steps=0)
    result = infer(OneSecondSteps(), small, settings, None, clock=clock)
    assert [epoch.steps for epoch in result.epochs] == [2, 2, 1]
    assert [epoch.duration_s for epoch in result.epochs] == [2, 2, 1]
    assert [epoch.complete for epoch in result.epochs] == [True, True, False]
    assert result.duration_s == 5


@pytest.mark.parametrize(
    ("length", "seconds", "steps", "is_cut"),
    [
        ({"passes": 3}, 4.5, [2, 2, 1], True),
        ({"passes": 3}, 4.0, [2, 2], True),  # in time for two passes
        ({"passes": 2}, 4.0, [2, 2], False),
        ({"passes": 2}, 100.0, [2, 2], False),
        ({"steps": 5}, 2.5, [2, 1], True),
        ({"steps": 3}, 3.0, [2, 1], False),
        ({}, 3.0, [2, 1], False),
    ],
)
def test_seconds_bound_another_length(network, small, clock, length, seconds, steps, is_cut):
    class OneSecondSteps(nn.Module):
        def forward(self, images):
            clock.now_s += 1
            return network(images)

    settings = inference(seconds=seconds, warmup_steps=0, **length)
    result = infer(OneSecondSteps(), small, settings, None, clock=clock)
    assert [epoch.steps for epoch in result.epochs] == steps
    assert settings.is_cut_short(result) is is_cut


def test_validation_does_not_count_towards_seconds(network, small, clock):
    class SlowToEvaluate(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = network

        def forward(self, images):
            clock.now_s += 1 if self.training else 1000
            return self.inner(images)

    settings = training(seconds=7, warmup_steps=0)
    result = train(SlowToEvaluate(), small, settings, None, clock=clock)
    assert [epoch.steps for epoch in result.epochs] == [5, 2]


def test_a_single_last_image_joins_the_batch_before(new_network, small):
    sizes = []

    class Sizes(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = new_network()

        def forward(self, images):
            sizes.append(len(images))
            return self.inner(images)

    settings = training(batch_size=23, warmup_steps=0, validate=False)
    assert train(Sizes(), small, settings, None).epochs[0].complete
    assert sizes == [23, 23, 24]


def test_a_batch_larger_than_the_set_is_refused(network, small):
    with pytest.raises(UserError, match=r"batch_size 71.*70 images"):
        train(network, small, training(batch_size=71), None)
    with pytest.raises(UserError, match=r"batch_size 31.*30 images"):
        infer(network, small, inference(batch_size=31), None)
    assert train(network, small, training(batch_size=70), None).steps == 1


# reproducibility


@pytest.mark.parametrize("input_path", ["device", "loader"])
def test_the_same_seed_gives_the_same_losses_whatever_ran_before(new_network, small, input_path):
    settings = training(epochs=2, input_path=input_path, loader_workers=0)
    first = train(new_network(), small, settings, None)
    torch.manual_seed(12345)
    torch.rand(17)
    again = train(new_network(), small, settings, None)
    other = train(new_network(), small, dataclasses.replace(settings, seed=1), None)
    assert learned(first) == learned(again)
    assert learned(first) != learned(other)


@pytest.mark.parametrize("input_path", ["device", "loader"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_warmup_does_not_change_the_result(new_network, small, optimizer, input_path):
    def run(warmup_steps):
        model = new_network()
        settings = training(
            epochs=2,
            warmup_steps=warmup_steps,
            optimizer=optimizer,
            learning_rate=0.01,
            input_path=input_path,
            loader_workers=0,
        )
        return learned(train(model, small, settings, None)), model.state_dict()

    (cold, cold_state), (warm, warm_state) = run(0), run(7)
    assert cold == warm
    assert all(torch.equal(cold_state[name], warm_state[name]) for name in cold_state)


def test_frozen_parameters_do_not_change(network, small):
    network[0].weight.requires_grad_(False)
    before = copy.deepcopy(network.state_dict())
    train(network, small, training(), None)
    assert torch.equal(network[0].weight, before["0.weight"])
    assert not torch.equal(network[3].weight, before["3.weight"])


def test_a_model_with_nothing_to_train_is_refused(network, small):
    network.requires_grad_(False)
    with pytest.raises(UserError, match="no trainable parameter"):
        train(network, small, training(), None)


def test_inference_changes_nothing_in_the_model(network, small):
    before = copy.deepcopy(network.state_dict())
    infer(network, small, inference(), None)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_global_settings_are_restored(network, small, precision):
    def settings():
        backends = torch.backends
        return (
            backends.cuda.matmul.fp32_precision,
            backends.mkldnn.matmul.fp32_precision,
            backends.cudnn.conv.fp32_precision,
            backends.cudnn.rnn.fp32_precision,
            backends.cudnn.benchmark,
            torch.get_float32_matmul_precision(),
            torch.get_rng_state().tolist(),
            torch.is_grad_enabled(),
        )

    seen = []

    class Spy(nn.Module):
        def forward(self, images):
            seen.append(settings()[:5])
            return network(images)

    before = settings()
    infer(Spy(), small, inference(passes=1, precision=precision), None)
    assert settings() == before
    assert {(s[0], s[2], s[3], s[4]) for s in seen} == {("ieee", "ieee", "ieee", True)}


# both input paths, formats, precisions


@fork_is_fine
@pytest.mark.parametrize("workers", [0, 1])
def test_the_loader_path_records_its_waits(network, small, workers):
    settings = training(epochs=2, input_path="loader", loader_workers=workers)
    result = train(network, small, settings, None)
    assert result.samples == 140
    assert all(0 < epoch.data_wait_s <= epoch.duration_s for epoch in result.epochs)
    assert result.data_wait_s == sum(epoch.data_wait_s for epoch in result.epochs)


def test_the_device_path_never_waits(network, small):
    result = infer(network, small, inference(), None)
    assert result.data_wait_s is None
    assert result.vram_peak_bytes is None


def test_both_input_paths_infer_the_same(network, small):
    on_device, loaded = (
        infer(network, small, inference(passes=1, input_path=path, loader_workers=0), None)
        for path in ("device", "loader")
    )
    assert loaded.loss == pytest.approx(on_device.loss, rel=1e-5)
    assert loaded.accuracy_pct == on_device.accuracy_pct


@pytest.mark.parametrize("options", [{"memory_format": "channels_last"}, {"precision": "bf16"}])
def test_formats_and_precisions_compute_nearly_the_same(new_network, small, options):
    plain = train(new_network(), small, training(), None)
    other = train(new_network(), small, training(**options), None)
    assert other.loss == pytest.approx(plain.loss, rel=0.02)


def test_bf16_runs_in_bfloat16_and_leaves_the_weights_alone(network, small):
    seen = set()
    network[0].register_forward_hook(lambda _m, _i, output: seen.add(output.dtype))
    infer(network, small, inference(passes=1, precision="bf16"), None)
    assert seen == {torch.bfloat16}
    assert network[0].weight.dtype == torch.float32


def test_loss_and_accuracy_cover_the_whole_set(network, small):
    result = infer(network, small, inference(passes=1, batch_size=7), None)
    mean, std = (torch.tensor(values)[:, None, None] for values in (small.mean, small.std))
    with torch.no_grad():
        logits = network.eval()((small.test_images / 255 - mean) / std)
    loss = nn.functional.cross_entropy(logits, small.test_labels).item()
    hits = (logits.argmax(dim=1) == small.test_labels).double().mean().item()
    assert result.loss == pytest.approx(loss, rel=1e-5)
    assert result.accuracy_pct == pytest.approx(100 * hits)


def test_digits_are_learned(network):
    settings = training(
        epochs=10, batch_size=64, optimizer="adam", learning_rate=0.003, weight_decay=0.0
    )
    result = train(network, load_dataset("digits", image_size=16), settings, None)
    assert result.accuracy_pct > 80
    losses = [epoch.loss for epoch in result.epochs]
    assert losses[-1] < losses[0] / 2


# failures


def failing(error):
    class Fails(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))

        def forward(self, images):
            raise error

    return Fails()


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB"), "out_of_memory"),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
            "out_of_memory",
        ),
        (MemoryError(), "out_of_memory"),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied\nmore"), "model_failed"),
        (KeyError("stem"), "model_failed"),
    ],
)
@pytest.mark.parametrize(("run", "settings"), [(train, training()), (infer, inference())])
def test_errors_of_a_model_are_mapped(small, error, kind, run, settings):
    with pytest.raises(WorkloadError) as caught:
        run(failing(error), small, settings, None)
    assert caught.value.kind == kind
    assert caught.value.__cause__ is error
    assert "\n" not in str(caught.value)


def test_a_real_allocation_that_cannot_be_met_is_out_of_memory(small):
    class Huge(nn.Module):
        def forward(self, images):
            return torch.empty(2**60, dtype=torch.uint8)

    with pytest.raises(WorkloadError) as caught:
        infer(Huge(), small, inference(), None)
    assert caught.value.kind == "out_of_memory"


def test_a_model_that_does_not_accept_the_images_is_an_error(small):
    with pytest.raises(WorkloadError, match="forward pass failed: RuntimeError") as caught:
        infer(nn.Conv2d(5, 2, 3), small, inference(), None)
    assert caught.value.kind == "model_failed"


@pytest.mark.parametrize(
    ("model", "found"),
    [
        (nn.Identity(), r"of shape \(16, 3, 32, 32\)"),
        (nn.Sequential(nn.Flatten(), nn.Linear(3072, 9)), r"of shape \(16, 9\)"),
        (nn.AdaptiveMaxPool2d(1, return_indices=True), "a tuple"),
    ],
)
def test_an_output_without_one_row_of_logits_per_image_is_refused(small, model, found):
    with pytest.raises(WorkloadError, match=f"the model's output is {found}") as caught:
        infer(model, small, inference(), None)
    assert caught.value.kind == "model_failed"


def test_a_loss_that_is_not_finite_ends_the_phase(network, small, recorder):
    with pytest.raises(WorkloadError, match="the loss became") as caught:
        train(network, small, training(learning_rate=1e30, epochs=2), recorder)
    assert caught.value.kind == "non_finite_loss"
    assert recorder.balanced


def test_batch_size_one_with_batch_normalisation_fails_clearly(small):
    model = nn.Sequential(nn.Conv2d(3, 10, 32), nn.BatchNorm2d(10), nn.Flatten())
    with pytest.raises(WorkloadError, match="more than 1 value per channel"):
        train(model, small, training(batch_size=1), None)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_missing_device_is_refused(network, small):
    with pytest.raises(UserError, match="'cuda' does not exist"):
        train(network, small, training(device="cuda"), None)


# on a CUDA device


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
class TestCuda:
    @compiling_is_fine
    @pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
    @pytest.mark.parametrize("compiled", [False, True])
    def test_it_trains_and_infers(self, new_network, small, precision, compiled):
        model = new_network()
        options = {"device": "cuda", "precision": precision, "compile": compiled}
        trained = train(model, small, training(epochs=2, **options), None)
        inferred = infer(model, small, inference(**options), None)
        assert math.isfinite(trained.loss)
        assert trained.vram_peak_bytes > small.train_images.numel()
        assert inferred.vram_peak_bytes > small.test_images.numel()

    def test_losses_are_those_of_the_cpu(self, new_network, small):
        cpu, cuda = (
            infer(new_network(), small, inference(passes=1, device=device), None)
            for device in ("cpu", "cuda")
        )
        assert cuda.loss == pytest.approx(cpu.loss, rel=1e-4)

    @fork_is_fine
    def test_the_loader_path_feeds_it(self, network, small):
        settings = training(device="cuda", input_path="loader", loader_workers=1)
        result = train(network, small, settings, None)
        assert result.samples == 70
        assert result.data_wait_s > 0

    def test_seconds_bound_the_queued_work(self, network, small):
        result = train(network, small, training(seconds=0.5, device="cuda"), None)
        assert result.duration_s >= 0.5

    def test_too_large_an_allocation_is_out_of_memory(self, small):
        class Huge(nn.Module):
            def forward(self, images):
                return torch.empty(2**50, dtype=torch.uint8, device=images.device)

        with pytest.raises(WorkloadError) as caught:
            infer(Huge(), small, inference(device="cuda"), None)
        assert caught.value.kind == "out_of_memory"
