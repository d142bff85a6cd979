"""Predict each architecture by a fit to all others, and compare with the paper's estimators.

``python -m benchmarks.leave_one_out`` fits the shipped H100 measurements (or any table that
``joulelab hardware fit`` reads) once per architecture, each time without that architecture, and
predicts the energy of its steps. For comparison it fits power laws of MACs, MACs per parameter and
parameters, by phase, and a straight line on the FLOPs of the traced step. A second table leaves out
whole families.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from joulelab.models.characteristics import Characteristics, characterize, weightless
from joulelab.models.registry import build_model
from joulelab.predict.coefficients import find_datasheet
from joulelab.predict.measurements import Measurement, read_measurements
from joulelab.predict.profile_fitting import (
    LeftOut,
    MeasuredSteps,
    combine,
    coverage_factor,
    estimate_discrepancy,
    fit,
    leave_out,
)
from joulelab.predict.step_tracing import trace_cases
from joulelab.predict.steps import PHASES, TracedStep

Floats = NDArray[np.float64]

FAMILIES = {
    "depthwise": ("MobileNet", "MobileNetV2", "EfficientNetB0", "ShuffleNetV2", "PNASNetB"),
    "grouped": ("ResNeXt29_2x64d", "RegNetX_200MF", "DPN26"),
    "residual": ("ResNet18", "PreActResNet18", "SENet18", "SimpleDLA"),
    "joined": ("DenseNet121", "GoogLeNet"),
    "plain": ("LeNet", "VGG16"),
}
"""Architectures that do similar work."""

WIDTH = 34


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.leave_one_out", description=__doc__)
    shipped = files("joulelab.predict").joinpath("profiles", "h100.csv")
    parser.add_argument("--table", type=Path, default=Path(str(shipped)),
        help="measured steps (default: the shipped H100 table)")  # fmt: skip
    parser.add_argument("--device", default="NVIDIA H100 80GB HBM3",
        help="device that the table was measured on")  # fmt: skip
    parser.add_argument("--no-matrix-units", action="store_true",
        help="the convolutions ran without TF32")  # fmt: skip
    options = parser.parse_args()

    measurements = read_measurements(options.table)
    steps = trace_cases([one.case for one in measurements])
    sheet = find_datasheet(options.device)
    if sheet is None:
        parser.error(f"there is no data sheet for {options.device}")
    if options.no_matrix_units:
        sheet = sheet.without_matrix_units()
    measured = combine(measurements, steps, sheet)
    models = np.array([one.case.model for one in measurements])
    family = np.array([_family(str(model)) for model in models])
    print(f"{options.table.name}: {len(set(models))} architectures, {len(measurements)} steps\n")
    print(header("Each architecture left out"))
    by_model = predict_groups(measured, models)
    inside = covered(measured, models, by_model)
    print_rows("operators (this project)", measurements, by_model.energy_j, inside)
    for name, regression in regressions(measurements, steps).items():
        print_rows(name, measurements, regression(models))
    print("\n" + header("Each family left out"))
    print_rows("operators (this project)", measurements, predict_groups(measured, family).energy_j)
    for name, regression in regressions(measurements, steps).items():
        print_rows(name, measurements, regression(family))


def predict_groups(measured: MeasuredSteps, groups: NDArray[np.str_]) -> LeftOut:
    """Predict each group by a fit to the others."""
    found = leave_out(measured, list(groups), fit(measured))
    assert found is not None, "there are fewer than three groups"
    return found


def covered(
    measured: MeasuredSteps, groups: NDArray[np.str_], left_out: LeftOut
) -> NDArray[np.bool_]:
    """Return whether the 95 % interval of each prediction contains the measurement.

    The error of the model itself is estimated from the residuals of the other groups only.
    """
    inside = np.zeros(len(groups), dtype=bool)
    for group in set(groups):
        mine = groups == group
        others = LeftOut(
            left_out.duration_s[~mine], left_out.energy_j[~mine], left_out.variance[:, ~mine]
        )
        rest = measured._replace(
            duration_s=measured.duration_s[~mine], energy_j=measured.energy_j[~mine]
        )
        _, discrepancy = estimate_discrepancy(rest, others)
        spread = np.sqrt(left_out.variance[1, mine] + discrepancy**2)
        error = np.abs(np.log(left_out.energy_j[mine] / measured.energy_j[mine]))
        inside[mine] = error <= coverage_factor(len(set(groups)) - 1) * spread
    return inside


def regressions(
    measurements: Sequence[Measurement], steps: Sequence[TracedStep]
) -> dict[str, Callable[[NDArray[np.str_]], Floats]]:
    """Return a function for each simpler estimator that predicts the groups left out."""
    energy_j = np.array([one.energy_j for one in measurements])
    phases = np.array([one.case.phase for one in measurements])
    known = {one.case.model: _characteristics(one) for one in measurements}
    batch = np.array([one.case.batch_size for one in measurements], dtype=float)
    of = [known[one.case.model] for one in measurements]

    def power_law(values: Sequence[float]) -> Callable[[NDArray[np.str_]], Floats]:
        logs = np.log(np.array(values, dtype=float))

        def predicted(groups: NDArray[np.str_]) -> Floats:
            per_sample = np.log(energy_j / batch)
            found = np.zeros(len(groups))
            for group in set(groups):
                for phase in PHASES:
                    mine = (groups == group) & (phases == phase)
                    others = (groups != group) & (phases == phase)
                    line = stats.linregress(logs[others], per_sample[others])
                    found[mine] = line.intercept + line.slope * logs[mine]
            return np.asarray(np.exp(found) * batch)

        return predicted

    def straight_line(groups: NDArray[np.str_]) -> Floats:
        flops = np.array([step.flops for step in steps])
        found = np.zeros(len(groups))
        for group in set(groups):
            others = groups != group
            rows = np.stack([np.ones(others.sum()), flops[others]], axis=1)
            weighted = rows / energy_j[others, None]  # least squares of relative errors
            line = np.linalg.lstsq(weighted, np.ones(others.sum()), rcond=None)[0]
            found[~others] = line[0] + line[1] * flops[~others]
        return found

    return {
        "MACs (power law)": power_law([one.macs for one in of]),
        "MACs per parameter (power law)": power_law([one.macs / one.parameters for one in of]),
        "parameters (power law)": power_law([one.parameters for one in of]),
        "FLOPs of the step (straight line)": straight_line,
    }


def header(title: str) -> str:
    """Return the two lines above a table."""
    columns = "".join(f"{phase:>9}{'p90':>7}{'rho':>7}{'cov.':>6}" for phase in PHASES)
    what = "median and p90 of the error of a step's energy (%), Spearman's rho, coverage"
    return f"{title}: {what}\n{'':{WIDTH}}{columns}"


def print_rows(
    name: str,
    measurements: Sequence[Measurement],
    energy_j: Floats,
    inside: NDArray[np.bool_] | None = None,
) -> None:
    """Print one line with both phases."""
    measured = np.array([one.energy_j for one in measurements])
    phases = np.array([one.case.phase for one in measurements])
    line = f"{name:{WIDTH}}"
    for phase in PHASES:
        mine = phases == phase
        errors = 100 * np.abs(energy_j[mine] / measured[mine] - 1)
        rho = stats.spearmanr(energy_j[mine], measured[mine]).statistic
        share = "" if inside is None else f"{100 * inside[mine].mean():.0f} %"
        line += f"{np.median(errors):9.1f}{np.quantile(errors, 0.9):7.1f}{rho:7.3f}{share:>6}"
    print(line)


def _characteristics(measurement: Measurement) -> Characteristics:
    case = measurement.case
    with weightless():
        model = build_model(case.model, in_channels=case.input_shape[0])
    return characterize(model, case.input_shape, name=case.model)


def _family(model: str) -> str:
    return next((name for name, members in FAMILIES.items() if model in members), model)


if __name__ == "__main__":
    main()
