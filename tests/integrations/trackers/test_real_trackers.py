"""MLflow, W&B and TensorBoard have the values of the record, to the digit, at the loss's steps."""

import math
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from stored_values import of_tensorboard, of_wandb

for name in ("mlflow", "wandb", "tensorboard"):
    pytest.importorskip(name)

TRACKERS = ("mlflow", "wandb", "tensorboard")
LOSS = {"lightning": "loss", "transformers": "train/loss"}


@pytest.fixture(scope="module")
def meter(read_back):
    return read_back("tracked_meter.py")


@pytest.fixture(scope="module")
def frameworks(read_back):
    pytest.importorskip("lightning")
    pytest.importorskip("transformers")
    return read_back("tracked_frameworks.py")


def expected_epochs(summary, name="epoch"):
    """The values of epochs as the record has them, by the names that are documented."""
    values = {}
    for epoch in summary.epochs:
        energy = epoch.energy
        low_j, high_j = energy.interval_j
        net_low_j, net_high_j = energy.net_interval_j
        for key, value in {
            "gross_j": energy.gross_j,
            "gross_low_j": low_j,
            "gross_high_j": high_j,
            "net_j": energy.net_j,
            "net_low_j": net_low_j,
            "net_high_j": net_high_j,
            "duration_s": energy.duration_s,
            "mean_power_w": energy.mean_power_w,
        }.items():
            if not math.isnan(value):
                values.setdefault(f"joulelab/{name}_{key}", []).append(value)
    return values


def expected_totals(summary):
    run, costs = summary.run, summary.costs
    low_j, high_j = run.energy.interval_j
    values = {
        "joulelab_total/gross_j": run.energy.gross_j,
        "joulelab_total/gross_low_j": low_j,
        "joulelab_total/gross_high_j": high_j,
        "joulelab_total/mean_power_w": run.energy.mean_power_w,
        "joulelab_total/duration_s": run.duration_s,
        "joulelab_total/gpu0_gross_j": run.energy.components["gpu:0"].gross_j,
        "joulelab_total/carbon_g": costs.carbon_g,
        "joulelab_total/carbon_low_g": costs.carbon_interval_g[0],
        "joulelab_total/carbon_high_g": costs.carbon_interval_g[1],
        "joulelab_total/price_eur": costs.price,
        "joulelab_total/price_low_eur": costs.price_interval[0],
        "joulelab_total/price_high_eur": costs.price_interval[1],
    }
    for span in run.spans:
        name = f"joulelab_spans/{span.name.replace('{', '_').replace('}', '_')}"
        values |= {
            f"{name}_gross_j": span.gross_j,
            f"{name}_gross_low_j": span.low_j,
            f"{name}_gross_high_j": span.high_j,
            f"{name}_duration_s": span.duration_s,
            f"{name}_count": span.count,
        }
    return values


def assert_energies(stored, summary):
    """Check that a tracker has the energies of all epochs and those of the whole."""
    expected = expected_epochs(summary)
    assert {name: series(stored, name) for name in expected} == expected
    expected = expected_totals(summary)
    assert {name: totals(stored).get(name) for name in expected} == expected


def series(stored, name):
    return [value for _, value in stored["metrics"][name]]


def totals(stored):
    single = stored.get("summary") or {
        name: values[-1][1] for name, values in stored["metrics"].items()
    }
    return {name: value for name, value in single.items() if name.startswith("joulelab_")}


@pytest.mark.parametrize("tracker", TRACKERS)
def test_epochs_are_those_of_the_record_to_the_digit(meter, summary_of, tracker):
    summary = summary_of(meter["directory"])
    expected = expected_epochs(summary)
    assert len(summary.epochs) == 3
    assert {name: series(meter[tracker], name) for name in expected} == expected


@pytest.mark.parametrize("tracker", TRACKERS)
def test_totals_are_those_of_the_record_to_the_digit(meter, summary_of, tracker):
    expected = expected_totals(summary_of(meter["directory"]))
    found = totals(meter[tracker])
    assert {name: found.get(name) for name in expected} == expected


@pytest.mark.parametrize("tracker", TRACKERS)
def test_a_step_is_the_epoch_or_the_attribute_of_its_span(meter, tracker):
    steps = [step for step, _ in meter[tracker]["metrics"]["joulelab/epoch_gross_j"]]
    assert steps == [0, 1, 100]


@pytest.mark.parametrize("tracker", TRACKERS)
def test_each_value_is_logged_once(meter, tracker):
    for name, values in meter[tracker]["metrics"].items():
        if name.startswith("joulelab"):
            steps = [step for step, _ in values]
            assert len(steps) == len(set(steps)), name


@pytest.mark.parametrize("tracker", TRACKERS)
def test_spans_within_and_after_an_epoch_are_logged_with_it(meter, tracker):
    stored = meter[tracker]
    for name in ("train", "validate _all_"):
        inside = sum(series(stored, f"joulelab/{name}_gross_j"))
        whole = totals(stored)[f"joulelab_spans/{name}_gross_j"]
        assert inside == pytest.approx(whole, rel=1e-9)
    for key in ("gross_j", "duration_s"):
        epochs = series(stored, f"joulelab/epoch_{key}")
        assert all(
            part < whole
            for part, whole in zip(series(stored, f"joulelab/train_{key}"), epochs, strict=True)
        )


@pytest.mark.parametrize("tracker", ["mlflow", "wandb"])
def test_labels_say_where_the_values_come_from(meter, summary_of, tracker):
    run = summary_of(meter["directory"]).run
    labels = meter[tracker]["labels"]
    assert labels["joulelab.run_id"] == run.id
    assert labels["joulelab.run_directory"] == str(run.directory)
    assert labels["joulelab.provenance"] == "simulated"
    assert labels["joulelab.source.gpu0"] == "simulated (simulated.samples)"
    assert "Germany" in labels["joulelab.carbon_intensity"]


def test_tensorboard_shows_the_same_values_in_32_bits(meter):
    stored = meter["tensorboard"]
    shown = {name: stored["scalars"][name] for name in stored["metrics"]}
    rounded = {
        name: [[step, float(np.float32(value))] for step, value in values]
        for name, values in stored["metrics"].items()
    }
    assert shown == rounded


def test_tensorboard_shows_the_labels_as_a_table(meter):
    assert f"| joulelab.run_directory | {meter['directory']} |" in meter["tensorboard"]["text"]


@pytest.mark.parametrize("tracker", TRACKERS)
def test_the_record_and_the_page_are_artifacts(meter, tracker):
    pytest.importorskip("altair")
    names = sorted(path.rpartition("/")[2] for path in meter[tracker]["files"])
    assert names == ["report.html", "run.json"]


def test_the_users_runs_are_left_as_they_are(meter):
    assert meter["still_active"]
    assert series(meter["mlflow"], "loss") == series(meter["wandb"], "loss") == [1, 1 / 2, 1 / 3]


def test_wandb_shows_epochs_over_their_step(meter):
    assert meter["wandb"]["axes"] == [["joulelab/*", "joulelab/step"]]


def test_a_run_that_was_active_within_the_recording_gets_the_record(meter, summary_of):
    expected = expected_epochs(summary_of("ended"))
    assert {name: series(meter["ended"], name) for name in expected} == expected


def test_a_server_that_does_not_answer_is_one_warning(meter, summary_of):
    [warning] = meter["warnings"]
    assert warning.startswith("MLflow does not have the energy of this run: MlflowException:")
    assert len(warning) < 400
    assert summary_of("unreachable").run.energy.gross_j > 0


@pytest.mark.parametrize("framework", ["lightning", "transformers"])
@pytest.mark.parametrize("tracker", ["mlflow", "tensorboard"])
def test_loggers_of_frameworks_get_the_record_at_the_steps_of_the_loss(
    frameworks, summary_of, framework, tracker
):
    summary = summary_of(frameworks[framework]["directory"])
    stored = frameworks[framework][tracker]
    assert_energies(stored, summary)
    loss_steps = {
        "mlflow": [step for step, _ in stored["metrics"].get("loss", ())],
        "tensorboard": [step for step, _ in stored.get("scalars", {}).get(LOSS[framework], ())],
    }[tracker]
    assert [step for step, _ in stored["metrics"]["joulelab/epoch_gross_j"]] == loss_steps


@pytest.fixture(scope="module")
def command(run_program):
    names = "mlflow,wandb,tensorboard:of-command"
    program = str(Path(__file__).parent / "tracked_command.py")
    # Making the page takes seconds, and is tested with the meter.
    start = (
        "from joulelab.integrations.trackers import tracking; tracking._page = lambda _: None; "
        "tracking.DEADLINE_S = 200; "
        "from joulelab.cli.app import main; main()"
    )
    return run_program(
        "-c", start, "run", "--out", "command", "--tracker", names,
        "--", sys.executable, program,
    )  # fmt: skip


def test_mlflow_has_a_commands_energy_in_the_run_that_it_began(command, folder, summary_of):
    summary = summary_of("command")
    with closing(sqlite3.connect(folder / "mlflow.db")) as database:
        runs = database.execute(
            "SELECT run_uuid FROM tags WHERE key = 'joulelab.run_id' AND value = ?",
            (summary.run.id,),
        ).fetchall()
        assert len(runs) == 1
        rows = database.execute(
            "SELECT key, step, value FROM metrics WHERE run_uuid = ? ORDER BY step", runs[0]
        ).fetchall()
    stored = {"metrics": {}}
    for name, step, value in rows:
        stored["metrics"].setdefault(name, []).append((step, value))
    assert series(stored, "loss") == [0.5, 0.5]
    assert_energies(stored, summary)


@pytest.mark.filterwarnings("ignore")
def test_wandb_has_a_commands_energy_under_its_id_in_its_project(command, folder, summary_of):
    summary = summary_of("command")
    stored = of_wandb(folder, summary.run.id)
    assert stored["projects"] == ["mine", "mine"]
    assert series(stored, "loss") == [0.5, 0.5]
    assert_energies(stored, summary)


@pytest.mark.filterwarnings("ignore")
def test_tensorboard_has_a_commands_energy_in_the_directory(command, folder, summary_of):
    stored = of_tensorboard(folder / "of-command")
    expected = expected_epochs(summary_of("command"))
    assert {name: series(stored, name) for name in expected} == expected


def test_the_summary_comes_before_the_trackers(command):
    lines = [
        line for line in command.stderr.splitlines() if line.startswith(("record ", "tracker "))
    ]
    assert [line.split()[0] for line in lines] == ["record", "tracker"]
    assert lines[1].endswith("logging to mlflow, wandb, tensorboard:of-command")
