"""Predict each architecture by a profile of all others, and compare with the paper's estimators.

``python -m benchmarks.leave_one_out`` fits the shipped H100 measurements (or any table that
``joulelab hardware fit`` reads) once per architecture, each time without that architecture, and
predicts the energy of its steps. For comparison it fits power laws of MACs, MACs per parameter and
parameters, by phase, and a straight line on the FLOPs of the traced step. A second table leaves out
whole families. ``--predict`` predicts another table of the device by a profile of all of the first.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from joulelab.arrays import Floats
from joulelab.errors import UserError
from joulelab.models.characteristics import Characteristics, characterize, weightless
from joulelab.models.registry import build_model
from joulelab.predict.coefficients import Datasheet, find_datasheet, generic_datasheet
from joulelab.predict.measurements import Measurement, read_measurements
from joulelab.predict.prediction import Prediction, predict
from joulelab.predict.profile_fitting import make_profile
from joulelab.predict.step_tracing import trace_cases
from joulelab.predict.steps import PHASES, TracedStep

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
        help="device that the table was measured on, or cpu")  # fmt: skip
    parser.add_argument("--no-matrix-units", action="store_true",
        help="the convolutions ran without TF32")  # fmt: skip
    parser.add_argument("--threads", type=int, help="threads of the CPU that ran the steps")
    parser.add_argument("--predict", type=Path, help="another table of the device")
    options = parser.parse_args()
    try:
        _compare(options)
    except UserError as error:
        parser.error(str(error))


def _compare(options: argparse.Namespace) -> None:
    measurements = read_measurements(options.table)
    steps = trace_cases([one.case for one in measurements])
    sheet = find_datasheet(options.device) or generic_datasheet(options.device)
    if options.no_matrix_units:
        sheet = sheet.without_matrix_units()
    if options.threads:
        sheet = sheet.model_copy(update={"processors": options.threads})
    models = np.array([one.case.model for one in measurements])
    family = np.array([_family(str(model)) for model in models])
    print(f"{options.table.name}: {len(set(models))} architectures, {len(measurements)} steps\n")
    for title, groups in (("architecture", models), ("family", family)):
        print(header(f"Each {title} left out"))
        print_rows(
            "operators (this project)", measurements, left_out(measurements, steps, sheet, groups)
        )
        for name, regression in regressions(measurements, steps).items():
            print_rows(name, measurements, regression(groups))
        print()
    if options.predict:
        others = read_measurements(options.predict)
        profile = make_profile("", measurements, steps, sheet, numerics="", source="")
        print(header(f"All of {options.predict.name}"))
        predictions = predict([one.case for one in others], profile)
        print_rows("operators (this project)", others, predictions)


def left_out(
    measurements: Sequence[Measurement],
    steps: Sequence[TracedStep],
    sheet: Datasheet,
    groups: NDArray[np.str_],
) -> list[Prediction]:
    """Predict the steps of each group by a profile of the other groups."""
    found: dict[int, Prediction] = {}
    for group in dict.fromkeys(groups):
        mine, others = np.flatnonzero(groups == group), np.flatnonzero(groups != group)
        profile = make_profile(
            "",
            [measurements[index] for index in others],
            [steps[index] for index in others],
            sheet,
            numerics="",
            source="",
        )
        predictions = predict([measurements[index].case for index in mine], profile)
        found.update(zip(mine.tolist(), predictions, strict=True))
    return [found[index] for index in range(len(measurements))]


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
    columns = "".join(f"{phase:>9}{'p90':>7}{'rho':>7}{'cov.':>7}{'±':>6}" for phase in PHASES)
    what = "error of a step's energy (%): median, p90; Spearman's rho; 95 % intervals (%): coverage"
    return f"{title}\n{what}, median half width\n{'':{WIDTH}}{columns}"


def print_rows(
    name: str, measurements: Sequence[Measurement], predicted: Floats | Sequence[Prediction]
) -> None:
    """Print one line with both phases. Intervals are those of predictions."""
    measured = np.array([one.energy_j for one in measurements])
    phases = np.array([one.case.phase for one in measurements])
    intervals = None
    if isinstance(predicted, np.ndarray):
        energy_j = predicted
    else:
        energy_j = np.array([one.energy_per_step_j for one in predicted])
        intervals = np.array([(one.energy_low_j, one.energy_high_j) for one in predicted]).T
    line = f"{name:{WIDTH}}"
    for phase in PHASES:
        mine = phases == phase
        errors = 100 * np.abs(energy_j[mine] / measured[mine] - 1)
        rho = stats.spearmanr(energy_j[mine], measured[mine]).statistic
        line += f"{np.median(errors):9.1f}{np.quantile(errors, 0.9):7.1f}{rho:7.3f}"
        if intervals is None:
            line += 13 * " "
            continue
        low, high = intervals[:, mine]
        inside = (low <= measured[mine]) & (measured[mine] <= high)
        half = np.sqrt(high / low) - 1
        line += f"{100 * inside.mean():7.0f}{100 * np.median(half):6.1f}"
    print(line.rstrip())


def _characteristics(measurement: Measurement) -> Characteristics:
    case = measurement.case
    with weightless():
        model = build_model(case.model, in_channels=case.input_shape[0])
    return characterize(model, case.input_shape, name=case.model)


def _family(model: str) -> str:
    return next((name for name, members in FAMILIES.items() if model in members), model)


if __name__ == "__main__":
    main()
