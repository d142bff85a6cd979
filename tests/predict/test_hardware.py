"""Hardware profiles: fitted, measured, kept, refused."""

import json

import numpy as np
import pytest
import torch

from joulelab.errors import UserError
from joulelab.machine import describe
from joulelab.meter import Meter
from joulelab.predict.calibration import Trial, calibrated_profile, measure, trials_for
from joulelab.predict.coefficients import NAMES
from joulelab.predict.devices import datasheet_of
from joulelab.predict.hardware import load_profile, save_profile, shipped_profiles
from joulelab.predict.measurements import read_measurements
from joulelab.predict.microworkloads import WORKLOADS
from joulelab.predict.operators import KINDS
from joulelab.predict.probing import probed_datasheet, repeat_for
from joulelab.predict.profiling import make_profile
from joulelab.predict.steps import steps_of
from joulelab.sensors.discovery import ENVIRONMENT as SENSORS_ENVIRONMENT
from joulelab.sensors.simulated import SimulatedMachine

HEADER = "model,phase,batch_size,input,seconds_per_step,energy_per_step_j"
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def own_home(monkeypatch, tmp_path):
    monkeypatch.setenv("JOULELAB_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def table(tmp_path):
    def write(*rows, header=HEADER):
        path = tmp_path / "table.csv"
        path.write_text("\n".join(["# made up", header, *rows]) + "\n")
        return path

    return write


def test_the_shipped_profile_is_what_its_table_gives(h100, h100_measurements, h100_steps):
    shipped = load_profile("h100")
    made = make_profile(
        "h100",
        h100_measurements,
        h100_steps,
        h100.sheet,
        numerics=shipped.numerics,
        source=shipped.source,
    )
    assert made.coefficients == pytest.approx(shipped.coefficients, rel=0.02)
    assert made.energy_discrepancy == pytest.approx(shipped.energy_discrepancy, abs=0.005)
    assert made.seen == shipped.seen.model_copy(update={"device_share": made.seen.device_share})


def test_a_profile_is_read_as_it_was_written(tmp_path):
    profile = load_profile("h100")
    path = tmp_path / "deep" / "copy.json"
    save_profile(profile, path)
    assert load_profile(str(path)) == profile
    kept = tmp_path / "home" / "profiles" / "mine.json"
    save_profile(profile.model_copy(update={"name": "mine"}), kept)
    assert load_profile("mine").name == "mine"
    np.testing.assert_allclose(np.exp(profile.known.logs), list(profile.coefficients.values()))


def damaged(change):
    values = json.loads(load_profile("h100").model_dump_json())
    change(values)
    return json.dumps(values)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "Invalid JSON"),
        ("[]", "should be an object"),
        (damaged(lambda v: v.update(schema_version=2)), "schema_version"),
        (damaged(lambda v: v["coefficients"].update(launch_s=-1)), "coefficients.launch_s"),
        (damaged(lambda v: v["coefficients"].pop("launch_s")), "['launch_s']"),
        (damaged(lambda v: v["log_covariance"].pop()), f"{len(NAMES)} rows"),
        (damaged(lambda v: v.update(idle_power_w=None)), "idle_power_w"),
        (damaged(lambda v: v.update(surprise=1)), "surprise"),
    ],
)
def test_a_file_that_is_no_profile_is_refused_in_one_line(tmp_path, text, message):
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        load_profile(str(path))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_profile_names_its_nearest():
    with pytest.raises(UserError, match="did you mean h100"):
        load_profile("h1000")
    assert shipped_profiles() == ["h100"]


def test_fit_writes_a_profile_that_predicts(run, table, tmp_path):
    rows = [
        f"{model},{phase},8,3x32x32,{seconds},{joules}"
        for model, seconds, joules in (("LeNet", 0.001, 0.1), ("MobileNet", 0.01, 1.5))
        for phase in ("train", "infer")
    ]
    out = tmp_path / "mine.json"
    code, printed, err = run(
        "hardware", "fit", table(*rows), "--device", "NVIDIA A100-SXM4-80GB", "--idle-power", 60,
        "--out", out,
    )  # fmt: skip
    assert code == 0, err
    assert "4 steps of 2 models" in printed
    profile = load_profile(str(out))
    assert profile.idle_power_w == 60
    assert profile.datasheet == load_profile(str(out)).datasheet
    code, printed, err = run("predict", "LeNet", "--profile", out, "--batch-size", 8, "--json")
    assert code == 0, err
    answer = json.loads(printed)
    assert answer["energy_low_j"] < 0.1 < answer["energy_high_j"]


def test_fit_says_when_no_data_sheet_is_kept(run, table, tmp_path):
    path = table("LeNet,train,8,3x32x32,0.001,0.1,50", header=HEADER + ",idle_power_w")
    out = tmp_path / "p.json"
    code, _, err = run("hardware", "fit", path, "--device", "Abacus", "--out", out)
    assert code == 0
    assert "no data sheet of 'Abacus'" in err
    assert load_profile(str(out)).datasheet.generic


@pytest.mark.parametrize(
    ("rows", "header", "message"),
    [
        ((), HEADER, "has no rows"),
        (("LeNet,train",), "model,phase", "no column batch_size, input, seconds_per_step"),
        (("LeNet,train,8,3x32x32,0,1",), HEADER, "row 1 has no seconds_per_step"),
        (("LeNet,train,8,3x32x32,1,nan",), HEADER, "row 1 has no energy_per_step_j"),
        (("LeNet,train,8,3x32x32,1,inf",), HEADER, "row 1 has no energy_per_step_j"),
        (("LeNet,test,8,3x32x32,1,1",), HEADER, "row 1 has no phase 'test'"),
        (("LeNet,train,8,32,32,1,1",), HEADER + ",x", "LeNet does not take"),
        (("LeNet,train,8,3by32,1,1",), HEADER, "'3by32' is no shape"),
        (("LeNet,train,1.5,3x32x32,1,1",), HEADER, "batch_size of 1.5"),
        (("LeNot,train,8,3x32x32,1,1",), HEADER, "did you mean LeNet"),
        (("LeNet,train,8,3x32x32,1,1",), HEADER, "idle power is not known"),
    ],
)
def test_bad_tables_end_in_one_line_and_2(run, table, tmp_path, rows, header, message):
    path = table(*rows, header=header)
    code, out, err = run(
        "hardware", "fit", path, "--device", "NVIDIA A100", "--out", tmp_path / "p.json"
    )
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "p.json").exists()


def test_the_device_must_be_known(run, table, tmp_path):
    path = table("LeNet,train,8,3x32x32,1,1")
    code, _, err = run("hardware", "fit", path, "--out", tmp_path / "p.json")
    assert code == 2
    assert "--device" in err


def test_repeats_become_medians(table):
    path = table(
        "LeNet,train,8,3x32x32,1,10,5",
        "LeNet,train,8,3x32x32,3,30,",
        "LeNet,train,8,3x32x32,2,500,7",
        "LeNet,infer,8,3x32x32,1,1,",
        header=HEADER + ",idle_power_w",
    )
    first, second = read_measurements(path)
    assert (first.duration_s, first.energy_j, first.idle_power_w, first.repeats) == (2, 30, 6, 3)
    assert np.isnan(second.idle_power_w)


def test_microworkloads_are_of_every_kind():
    trials = [Trial(workload, "train", 4).case for workload in WORKLOADS]
    kinds = {one.kind for step in steps_of(trials) for one in step.operators}
    assert kinds == set(KINDS)


def test_calibration_measures_what_is_traced():
    chosen = [one for one in WORKLOADS if one.factory == "tiny_layers"]
    told = []
    with Meter(sensors=SimulatedMachine.default()) as meter:
        trials = trials_for(chosen, CPU)[:2]
        found = measure(trials, CPU, meter, 0.4, lambda done, what: told.append((done, what)))
    assert [one.case for one in found] == [trial.case for trial in trials]
    assert all(one.duration_s > 0 and one.energy_j > 0 for one in found)
    assert told == [(0.0, "tiny_layers, train, 1"), (0.5, "tiny_layers, infer, 1")]
    rows = [one._replace(idle_power_w=50.0) for one in found]
    sheet = datasheet_of("NVIDIA A100")._replace(kind="cpu", generic=True)
    profile = make_profile(
        "tiny", rows, steps_of([one.case for one in rows]), sheet, numerics="", source=""
    )
    assert profile.seen.batch_size == (1, 1)


def test_without_sensors_calibration_is_refused():
    with Meter(sensors=[]) as meter, pytest.raises(UserError, match="no energy was measured"):
        measure([Trial(WORKLOADS[-1], "infer", 1)], CPU, meter, 0.05, lambda *_: None)


def test_a_device_without_data_sheet_is_probed(monkeypatch):
    monkeypatch.setattr("joulelab.predict.probing.PROBE_S", 0.05)
    monkeypatch.setattr("joulelab.predict.probing.MATRIX_SIZE", 128)
    monkeypatch.setattr("joulelab.predict.probing.STREAM_NUMBERS", 1 << 16)
    with Meter(sensors=SimulatedMachine.default()) as meter:
        sheet = probed_datasheet(CPU, describe(), meter)
    assert sheet.generic
    assert sheet.kind == "cpu"
    assert min(sheet.vector_flops_per_s, sheet.memory_bytes_per_s, sheet.cache_bytes) > 1e6
    assert sheet.power_limit_w > 0


def test_repeating_runs_at_least_twice():
    done = []
    assert repeat_for(lambda: done.append(1), 0.0, CPU) >= 0
    assert len(done) == 2


def test_a_machine_is_calibrated_from_idle_to_profile(monkeypatch, tmp_path):
    monkeypatch.setenv(SENSORS_ENVIRONMENT, "simulated")
    chosen = [one for one in WORKLOADS if one.factory in {"tiny_layers", "linear_layers"}]
    monkeypatch.setattr("joulelab.predict.calibration.WORKLOADS", chosen)
    monkeypatch.setattr("joulelab.predict.probing.PROBE_S", 0.05)
    told = []
    profile = calibrated_profile("here", "cpu", 2.0, lambda done, what: told.append(done))
    assert profile.name == "here"
    assert profile.datasheet.kind == "cpu"
    assert profile.seen.architectures == 2
    assert profile.idle_power_w > 0
    assert "busy while they should have been idle" in profile.source
    assert told == sorted(told)
    assert told[-1] == 1.0
