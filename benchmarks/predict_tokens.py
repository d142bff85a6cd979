"""Compare predicted with published energies of language models on one GPU.

``python -m benchmarks.predict_tokens`` predicts joules per output token in three ways:

- models served by vLLM in bf16, each architecture by a profile of the others on the same GPU;
- the same models, all rows of one GPU by the profile of the other and both data sheets;
- models run by Transformers on an A100 in fp16, by the shipped profile of an H100, which was fitted
  to small networks and no language model, and both data sheets; and each architecture by a profile
  of the others.

``--fit`` writes the shipped profiles, each from all rows of its GPU.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from joulelab.models.language_models import (
    LanguageConfig,
    published_configuration,
    published_names,
)
from joulelab.predict.coefficients import find_datasheet
from joulelab.predict.hardware_profile import HardwareProfile, load_profile
from joulelab.predict.measurements import Measurement
from joulelab.predict.prediction import Prediction, predict_steps
from joulelab.predict.profile_fitting import make_profile
from joulelab.predict.steps import Case, TracedStep
from joulelab.predict.token_steps import count_token_step

DATA = Path(__file__).parent / "data"
SERVED_TABLE, EAGER_TABLE = "mlenergy_v2_single_gpu.csv", "joulebench_a100.csv"
PROMPT_TOKENS = {"chat": 250, "code": 170}
"""Assumed lengths of the prompts of served requests."""

SERVER = "vLLM 0.5.4"
IDLE_W = {"NVIDIA H100 80GB HBM3": 126.33, "NVIDIA A100-SXM4-40GB": 60.0}
"""Idle powers, which the table does not state: of another H100 (``profiles/h100.csv``), and of an
A100 80GB PCIe (``data/joulebench_a100.csv``)."""

PROFILES = {"NVIDIA H100 80GB HBM3": "h100-vllm", "NVIDIA A100-SXM4-40GB": "a100-vllm"}
EAGER_DEVICE, EAGER_PROFILE = "NVIDIA A100 80GB PCIe", "a100-transformers"


class Rows(NamedTuple):
    """Published rows of one device with their operators."""

    measurements: list[Measurement]
    steps: list[TracedStep]
    idle_power_w: float


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.predict_tokens", description=__doc__
    )
    parser.add_argument("--fit", action="store_true", help="write the shipped profiles")
    parser.add_argument("--all", action="store_true", help="print every row")
    options = parser.parse_args()
    served, eager = {device: read_served(device) for device in PROFILES}, read_eager()
    if options.fit:
        found = [fit(served[device], device, name) for device, name in PROFILES.items()]
        for profile in (*found, fit(eager, EAGER_DEVICE, EAGER_PROFILE)):
            target = files("joulelab.predict").joinpath("profiles", f"{profile.name}.json")
            profile.save(Path(str(target)))
        return
    results = {
        f"served, {_short(device)}: each architecture left out": (rows, leave_out(rows, device))
        for device, rows in served.items()
    }
    for device, other in zip(PROFILES, reversed(PROFILES), strict=True):
        moved = load_profile(PROFILES[other]).on_device(device)
        title = f"served, {_short(device)}: by the profile of {_short(other)} and data sheets"
        results[title] = (served[device], predict_rows(served[device], moved))
    moved = load_profile("h100").on_device(EAGER_DEVICE)
    moved = moved.model_copy(update={"idle_power_w": eager.idle_power_w})
    results["eager, A100: by the profile h100 and data sheets"] = (
        eager,
        predict_rows(eager, moved),
    )
    results["eager, A100: each architecture left out"] = (eager, leave_out(eager, EAGER_DEVICE))
    if options.all:
        for title, (rows, found) in results.items():
            print_rows(title, rows.measurements, found)
    print_summary(results)


def read_served(device: str) -> Rows:
    """Read the rows of a device; a step of serving is one decode step and its prefills."""
    measurements = []
    for row in read_table(SERVED_TABLE):
        if row["gpu"] != device or find_config(row["model"]) is None:
            continue
        case = Case(
            f"lm:{row['model']}",
            "serve",
            round(float(row["batch_size_mean"])),
            (PROMPT_TOKENS[row["dataset"]],),
            round(float(row["output_tokens_mean"])),
            "bf16",
        )
        duration_s = case.tokens / float(row["throughput_token_per_s"])
        j_per_token = float(row["energy_per_request_j"]) / float(row["output_tokens_mean"])
        energy_j = case.tokens * j_per_token
        measurements.append(Measurement(case, duration_s, energy_j, IDLE_W[device], 1))
    return _with_steps(measurements, served=True)


def read_eager() -> Rows:
    """Read the rows of Transformers: medians over the prompts of each model and batch size.

    Generation is taken for decode steps: of these short prompts, prefill is one of 30 to 200.
    """
    rows: dict[tuple[str, int], list[tuple[float, ...]]] = {}
    for row in read_table(EAGER_TABLE):
        if find_config(row["model"]) is None:
            continue
        batch = int(row["batch_size"])
        duration_s = batch / float(row["tok_per_s"])
        energy_j = float(row["power_w"]) * duration_s
        tokens = (float(row[name]) / batch for name in ("input_tokens", "output_tokens"))
        numbers = (*tokens, duration_s, energy_j, float(row["idle_power_w"]))
        rows.setdefault((row["model"], batch), []).append(numbers)
    measurements = []
    for (model, batch), values in rows.items():
        inputs, outputs, *measured = np.median(values, axis=0).tolist()
        case = Case(f"lm:{model}", "decode", batch, (round(inputs),), round(outputs), "fp16")
        measurements.append(Measurement(case, *measured, len(values)))
    return _with_steps(measurements, served=False)


def _with_steps(measurements: list[Measurement], *, served: bool) -> Rows:
    steps = []
    for one in measurements:
        config = find_config(one.case.model.removeprefix("lm:"))
        assert config is not None
        steps.append(count_token_step(config, one.case, served=served))
    return Rows(measurements, steps, float(np.median([one.idle_power_w for one in measurements])))


def read_table(name: str) -> list[dict[str, str]]:
    with (DATA / name).open() as lines:
        return list(csv.DictReader(line for line in lines if not line.startswith("#")))


@cache
def find_config(name: str) -> LanguageConfig | None:
    """Return the sizes of a model of the tables; ``None`` if its architecture has no formula."""
    others = json.loads((DATA / "llm_configurations.json").read_text())
    if name in published_names():
        return LanguageConfig.from_configuration(published_configuration(name))
    if name in others:
        return LanguageConfig.from_configuration(others[name]["configuration"])
    return None


def fit(rows: Rows, device: str, name: str = "") -> HardwareProfile:
    served = device != EAGER_DEVICE
    return make_profile(
        name,
        rows.measurements,
        rows.steps,
        find_datasheet(device),
        numerics=f"bf16, served by {SERVER}" if served else "fp16, Transformers",
        source=f"{SERVED_TABLE if served else EAGER_TABLE}: {len(rows.steps)} steps",
        server=SERVER if served else "",
    )


def leave_out(rows: Rows, device: str) -> list[Prediction]:
    """Predict the rows of each architecture by a profile of the others."""
    models = np.array([one.case.model for one in rows.measurements])
    found: dict[int, Prediction] = {}
    for model in dict.fromkeys(models):
        mine, others = np.flatnonzero(models == model), np.flatnonzero(models != model)
        profile = fit(_choose(rows, others), device)
        predictions = predict_rows(_choose(rows, mine), profile)
        found.update(zip(mine.tolist(), predictions, strict=True))
    return [found[index] for index in range(len(models))]


def _choose(rows: Rows, indices: NDArray[np.intp]) -> Rows:
    return Rows(
        [rows.measurements[index] for index in indices],
        [rows.steps[index] for index in indices],
        rows.idle_power_w,
    )


def predict_rows(rows: Rows, profile: HardwareProfile) -> list[Prediction]:
    return predict_steps([one.case for one in rows.measurements], rows.steps, profile)


def print_rows(title: str, measured: Sequence[Measurement], found: Sequence[Prediction]) -> None:
    """Print measured and predicted joules per output token by model and batch size."""
    print(f"{title}\n{'model':20}{'batch':>6}{'measured':>10}{'predicted':>10}   95 % interval")
    for one, prediction in zip(measured, found, strict=True):
        value, low, high, *_ = prediction.per_token.values()
        truth = one.energy_j / one.case.tokens
        outside = "" if low <= truth <= high else "  outside"
        print(
            f"{one.case.model.removeprefix('lm:'):20}{one.case.batch_size:6}{truth:10.4f}"
            f"{value:10.4f}   {low:.4f} to {high:.4f}{outside}"
        )
    print()


def print_summary(results: Mapping[str, tuple[Rows, list[Prediction]]]) -> None:
    """Print errors of joules and seconds per token, and how often intervals cover the truth."""
    print(f"{'':62}{'rows':>5}{'models':>7}{'median':>8}{'p90':>6}{'bias':>6}{'inside':>8}{'±':>6}")
    for title, (rows, found) in results.items():
        measured = rows.measurements
        for what in ("energy", "time"):
            if what == "energy":
                truth = np.array([one.energy_j for one in measured])
                values = [(p.energy_per_step_j, p.energy_low_j, p.energy_high_j) for p in found]
            else:
                truth = np.array([one.duration_s for one in measured])
                values = [(p.seconds_per_step, p.seconds_low, p.seconds_high) for p in found]
            value, low, high = np.array(values).T
            errors = value / truth - 1
            print(
                f"{title + ', ' + what:62}{len(truth):5}"
                f"{len({one.case.model for one in measured}):7}"
                f"{np.median(np.abs(errors)):8.0%}{np.quantile(np.abs(errors), 0.9):6.0%}"
                f"{np.median(errors):+6.0%}"
                f"{np.mean((low <= truth) & (truth <= high)):8.0%}"
                f"{np.median(high / value - 1):6.0%}"
            )


def _short(device: str) -> str:
    return device.removeprefix("NVIDIA ").partition(" ")[0].partition("-")[0]


if __name__ == "__main__":
    main()
