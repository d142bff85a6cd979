"""Plans of language models, and their cells on a machine that draws a constant power."""

import json

import pytest
import torch

from joulelab.errors import PlanError, UserError
from joulelab.forecast.steady import SteadyWindow
from joulelab.sensors.simulated import SimulatedMachine, SimulatedSource, Waveform
from joulelab.study import cell_work
from joulelab.study.cell_work import LanguageWork
from joulelab.study.cells import blocks, combinations
from joulelab.study.executor import Executor
from joulelab.study.plan import Plan
from joulelab.study.plan_file import load_plan, parse

MINIMAL = {"name": "a", "models": ["lm:tiny"]}
SMALL = MINIMAL | {
    "data": {"train_count": 8, "test_count": 8},
    "factors": {"batch_size": 4, "prompt_tokens": 16, "output_tokens": 4, "device": "cpu"},
    "train": {"epochs": 2, "warmup_steps": 0},
    "infer": {"passes": 1, "warmup_steps": 0},
}


@pytest.fixture(autouse=True)
def _steady_machine(monkeypatch):
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    source = SimulatedSource(component="gpu:0", waveform=Waveform.constant(300.0), noise_w=0.1)
    monkeypatch.setenv("JOULELAB_SENSORS", SimulatedMachine((source,)).spec())
    yield
    torch.set_num_threads(before)


def test_defaults_of_a_plan_of_language_models():
    plan = parse(MINIMAL, "x.toml")
    assert plan.is_language
    assert (plan.data.name, plan.phases) == ("tokens", ["train", "prefill", "decode"])
    levels = plan.factors.levels()
    assert "memory_format" not in levels
    assert "input_path" not in levels
    assert levels["optimizer"] == ["adamw"]
    assert (levels["prompt_tokens"], levels["output_tokens"]) == ([512], [128])
    assert (levels["attention"], levels["cache"]) == (["sdpa"], ["dynamic"])
    assert not plan.train.validate_epochs


def test_a_plan_of_images_has_no_factor_of_language_models():
    plan = parse({"name": "a", "models": ["LeNet"]}, "x.toml")
    assert not plan.is_language
    assert not {"prompt_tokens", "cache"} & plan.factors.levels().keys()


def test_any_factory_may_be_a_language_model():
    assert parse({"name": "a", "models": ["my:model"], "data": {"name": "tokens"}}, "x").is_language


@pytest.mark.parametrize("name", ["language", "language-gpu"])
def test_a_plan_survives_being_written_out(name):
    plan = load_plan(name)
    assert parse(plan.to_dict(), name) == plan


def test_cells_are_named_like_those_of_other_plans():
    plan = parse(MINIMAL | {"factors": {"cache": ["dynamic", "static"], "batch_size": 4}}, "x")
    names = {cell.run_id for cell in blocks(plan)[0]}
    assert names == {"r0-lm-tiny-cache-dynamic", "r0-lm-tiny-cache-static"}


IMAGES = {"name": "a", "models": ["LeNet"]}


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (
            MINIMAL | {"models": ["lm:tiny", "ResNet18"]},
            "ResNet18 is one of the models of images, and data.name = 'tokens' is for language "
            "models: a plan has models of one kind",
        ),
        (
            MINIMAL | {"data": {"name": "digits"}},
            "lm:tiny is one of the language models, and data.name = 'digits' is for models of "
            "images",
        ),
        (
            IMAGES | {"factors": {"cache": "static"}},
            "factors.cache does not apply to models of images",
        ),
        (
            MINIMAL | {"factors": {"memory_format": "channels_last"}},
            "factors.memory_format does not apply to language models",
        ),
        (
            MINIMAL | {"train": {"validate": True}},
            "train.validate does not apply to language models",
        ),
        (
            IMAGES | {"train": {"gradient_accumulation_steps": 2}},
            "train.gradient_accumulation_steps does not apply to models of images",
        ),
        (
            MINIMAL | {"phases": ["infer"]},
            "phases: infer does not apply to language models; choose from train, prefill, decode",
        ),
        (IMAGES | {"phases": ["decode"]}, "phases: decode does not apply to models of images"),
        (
            MINIMAL | {"phases": ["decode", "prefill"]},
            'write ["prefill", "decode"]',
        ),
        (
            MINIMAL | {"factors": {"precision": "fp16"}},
            "factors.precision: fp16 is for prefill and decode alone; choose bf16",
        ),
        (MINIMAL | {"factors": {"attention": "spda"}}, "did you mean sdpa?"),
        (MINIMAL | {"factors": {"prompt_token": 3}}, "did you mean prompt_tokens?"),
        (MINIMAL | {"models": ["lm:gpt3"]}, "models[0]: no model 'lm:gpt3'"),
    ],
)
def test_a_plan_that_mixes_kinds_is_refused_in_one_line(document, message):
    with pytest.raises(PlanError) as caught:
        parse(document, "x.toml")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_configuration_that_generates_no_text_is_refused(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model_type": "vit", "image_size": 32}))
    plan = Plan.model_validate({"name": "a", "models": [f"hf:{path}"], "data": {"name": "tokens"}})
    with pytest.raises(UserError, match="is no language model"):
        Executor(plan)


def test_a_cell_counts_the_tokens_and_operations_of_each_phase(tmp_path):
    plan = parse(SMALL, "x.toml")
    executor = Executor(plan)
    assert executor.describe()["data"] == {
        "name": "tokens", "origin": "random token ids", "real": False, "train_count": 8,
        "test_count": 8, "random_weights": ["lm:tiny"], "mixtures": [],
    }  # fmt: skip
    (factors,) = combinations(plan)
    events = []
    body = executor.cell(tmp_path / "run", factors, 0, events.append)["body"]
    assert body["failure"] is None
    results = body["results"]
    assert list(results) == ["train", "prefill", "decode"]
    assert {phase: one["samples"] for phase, one in results.items()} == {
        "train": 16, "prefill": 8, "decode": 8,
    }  # fmt: skip
    assert {phase: one["tokens"] for phase, one in results.items()} == {
        "train": 16 * 16, "prefill": 8 * 16, "decode": 8 * 4,
    }  # fmt: skip
    # Of a token: 64 * 64 + 2 * 64 * 32 + 64 * 64 in attention's projections, 3 * 64 * 192 in the
    # multilayer perceptron, and 2 * 64 for each token that it attends to, in each of 2 layers.
    layers, scores = 2 * (3 * 64 * 64 + 3 * 64 * 192), 64 * 512
    macs = {phase: one["macs_per_token"] for phase, one in results.items()}
    assert macs == {
        "train": layers + 2 * 2 * 64 * 16 + scores,
        "prefill": layers + 2 * 2 * 64 * 16 + scores / 16,
        "decode": layers + 2 * 2 * 64 * (16 + 2 + 1) + scores,
    }
    assert results["decode"]["energy"]["gross_j"] == pytest.approx(
        300.0 * results["decode"]["energy"]["duration_s"], rel=0.01
    )
    assert body["settings"]["decode"]["output_tokens"] == 4


@pytest.mark.parametrize("phase", ["train", "prefill", "decode"])
def test_a_probe_counts_sequences(tmp_path, phase):
    plan = parse(SMALL | {"phases": [phase]}, "x.toml")
    (factors,) = combinations(plan)
    window = SteadyWindow(window_s=0.2, most_s=20.0)
    body = Executor(plan).probe(tmp_path / "probe", factors, 0, window, lambda event: None)["body"]
    assert body["failure"] is None
    assert set(body["results"][phase]["work"]) == {4}


def test_a_cell_that_cannot_be_run_is_recorded_as_unsupported(tmp_path):
    plan = parse(SMALL | {"phases": ["decode"]}, "x.toml")
    factors = combinations(plan)[0] | {"output_tokens": 4096}
    body = Executor(plan).cell(tmp_path / "run", factors, 0, lambda event: None)["body"]
    assert body["failure"]["kind"] == "unsupported"
    assert body["failure"]["reason"] == "lm:tiny accepts 2,048 tokens, not 4,112"


def test_a_prompt_may_fill_the_context_where_nothing_is_decoded():
    plan = parse(SMALL | {"phases": ["prefill"]}, "x.toml")
    factors = combinations(plan)[0] | {"prompt_tokens": 2048}
    assert LanguageWork(plan).of_cell(factors, 0).phases["prefill"].macs_per_token > 0


def test_cells_of_the_same_model_and_lengths_share_its_description(monkeypatch):
    counted = []
    count = cell_work.characterize
    monkeypatch.setattr(
        cell_work, "characterize", lambda *args, **more: counted.append(1) or count(*args, **more)
    )
    sizes = {**SMALL["factors"], "batch_size": [2, 4], "prompt_tokens": [8, 16]}
    plan = parse(SMALL | {"factors": sizes}, "x.toml")
    work = LanguageWork(plan)
    macs = {}
    for factors in combinations(plan):
        found = work.of_cell(factors, 0)
        one = macs.setdefault(factors["prompt_tokens"], [])
        one.append({name: phase.macs_per_token for name, phase in found.phases.items()})
    assert len(counted) == 2
    assert macs[8][0] == macs[8][1] != macs[16][0] == macs[16][1]
