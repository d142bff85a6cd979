"""Hardware profiles: fitting, measuring, saving, loading and refusing them."""

import json

import numpy as np
import pytest
import torch

from joulelab.errors import UserError
from joulelab.machine import describe
from joulelab.meter import Meter
from joulelab.predict import measure_profile, microworkloads
from joulelab.predict.coefficients import COEFFICIENT_NAMES, KNOWN_LENGTHS, find_datasheet
from joulelab.predict.hardware_profile import load_profile, shipped_profiles
from joulelab.predict.measurements import read_measurements, write_measurements
from joulelab.predict.prediction import predict
from joulelab.predict.profile_fitting import make_profile
from joulelab.predict.step_tracing import trace_cases
from joulelab.predict.steps import KINDS, Case
from joulelab.sensors.discovery import ENVIRONMENT as SENSORS_ENVIRONMENT
from joulelab.sensors.simulated import SimulatedMachine

HEADER = "model,phase,batch_size,input,seconds_per_step,energy_per_step_j"
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def empty_home(monkeypatch, tmp_path):
    monkeypatch.setenv("JOULELAB_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def table(tmp_path):
    def write(*rows, header=HEADER):
        path = tmp_path / "table.csv"
        path.write_text("\n".join(["# invented", header, *rows]) + "\n")
        return path

    return write


def test_the_shipped_profile_follows_from_its_table(profile, h100, h100_measurements, h100_steps):
    shipped = profile
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


def test_a_saved_profile_loads_unchanged(tmp_path, profile):
    path = tmp_path / "deep" / "copy.json"
    profile.save(path)
    assert load_profile(str(path)) == profile
    profile.model_copy(update={"name": "mine"}).save(tmp_path / "home/profiles/mine.json")
    assert load_profile("mine").name == "mine"
    np.testing.assert_allclose(
        np.exp(profile.fitted_coefficients.logs), list(profile.coefficients.values())
    )


@pytest.mark.parametrize("length", KNOWN_LENGTHS[:-1])
def test_profiles_of_earlier_versions_still_predict(tmp_path, profile, length):
    def shorten(values):
        values["coefficients"] = dict(list(values["coefficients"].items())[:length])
        values["log_covariance"] = [row[:length] for row in values["log_covariance"][:length]]
        del values["datasheet"]["half_flops_per_s"]

    path = tmp_path / "earlier.json"
    path.write_text(damaged(shorten))
    case = Case("VGG16", "infer", 128, (3, 32, 32))
    ((before,), (now,)) = (predict([case], one) for one in (load_profile(str(path)), profile))
    assert before.energy_per_step_j == pytest.approx(now.energy_per_step_j, rel=0.05)


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
        (damaged(lambda v: v["log_covariance"].pop()), f"{len(COEFFICIENT_NAMES)} rows"),
        (damaged(lambda v: v.update(idle_power_w=None)), "idle_power_w"),
        (damaged(lambda v: v.update(surprise=1)), "surprise"),
    ],
)
def test_an_invalid_profile_is_refused_in_one_line(tmp_path, text, message):
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        load_profile(str(path))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_profile_suggests_the_nearest_name():
    with pytest.raises(UserError, match="did you mean h100"):
        load_profile("h1000")
    assert shipped_profiles() == ["a100-transformers", "a100-vllm", "h100", "h100-vllm"]


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
    code, printed, err = run("predict", "LeNet", "--profile", out, "--batch-size", 8, "--json")
    assert code == 0, err
    answer = json.loads(printed)
    assert answer["energy_low_j"] < 0.1 < answer["energy_high_j"]


def test_fit_warns_about_a_device_without_data_sheet(run, table, tmp_path):
    path = table("LeNet,train,8,3x32x32,0.001,0.1,50", header=HEADER + ",idle_power_w")
    out = tmp_path / "p.json"
    code, _, err = run("hardware", "fit", path, "--device", "Abacus", "--out", out)
    assert code == 0
    assert "no data sheet for 'Abacus'" in err
    assert load_profile(str(out)).datasheet.generic


def test_a_table_of_a_cpu_is_fitted_as_one(run, table, tmp_path):
    path = table("LeNet,train,8,3x32x32,0.01,0.1,5", header=HEADER + ",idle_power_w")
    code, _, err = run("hardware", "fit", path, "--device", "cpu", "--out", tmp_path / "p.json")
    assert code == 0, err
    sheet = load_profile(str(tmp_path / "p.json")).datasheet
    assert (sheet.kind, sheet.generic) == ("cpu", True)


@pytest.mark.parametrize(
    ("rows", "header", "message"),
    [
        ((), HEADER, "has no rows"),
        (("LeNet,train",), "model,phase", "no column batch_size, input, seconds_per_step"),
        (("LeNet,train,8,3x32x32,0,1",), HEADER, "row 1 has no seconds_per_step"),
        (("LeNet,train,8,3x32x32,1,nan",), HEADER, "row 1 has no energy_per_step_j"),
        (("LeNet,train,8,3x32x32,1,inf",), HEADER, "row 1 has no energy_per_step_j"),
        (("LeNet,test,8,3x32x32,1,1",), HEADER, "row 1 has no phase 'test'"),
        (("LeNet,train,8,32,32,1,1",), HEADER + ",x", "LeNet does not accept"),
        (("LeNet,train,8,3by32,1,1",), HEADER, "'3by32' is not the shape"),
        (("LeNet,train,1.5,3x32x32,1,1",), HEADER, "batch_size of 1.5"),
        (("LeNot,train,8,3x32x32,1,1",), HEADER, "did you mean LeNet"),
        (("LeNet,train,8,3x32x32,1,1",), HEADER, "the idle power is unknown"),
    ],
)
def test_invalid_tables_exit_with_2_and_one_line(run, table, tmp_path, rows, header, message):
    path = table(*rows, header=header)
    code, out, err = run(
        "hardware", "fit", path, "--device", "NVIDIA A100", "--out", tmp_path / "p.json"
    )
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "p.json").exists()


def test_a_table_without_a_device_is_refused(run, table, tmp_path):
    path = table("LeNet,train,8,3x32x32,1,1")
    code, _, err = run("hardware", "fit", path, "--out", tmp_path / "p.json")
    assert code == 2
    assert "--device" in err


def test_repeats_are_reduced_to_medians(table):
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


def test_microworkloads_cover_every_kind_of_operator():
    cases = [
        Case(f"{microworkloads.__name__}:{network}", "train", 4, shape)
        for network, shape in microworkloads.INPUT_SHAPES.items()
    ]
    assert {one.kind for step in trace_cases(cases) for one in step.operators} == set(KINDS)


def test_measured_cases_are_those_that_are_traced():
    progress = []
    cases = measure_profile.choose_cases({"tiny_layers": (8,)}, CPU)[:2]
    with Meter(sensors=SimulatedMachine.default()) as meter:
        found = measure_profile.measure_cases(
            cases, CPU, meter, 0.2, lambda done, what: progress.append((done, what))
        )
    assert [one.case for one in found] == cases
    assert all(one.duration_s > 0 and one.energy_j > 0 for one in found)
    assert progress == [(0.0, "tiny_layers, train, batch 1"), (0.5, "tiny_layers, infer, batch 1")]
    sheet = find_datasheet("NVIDIA A100").model_copy(update={"kind": "cpu", "generic": True})
    measured = [one._replace(idle_power_w=50.0) for one in found]
    profile = make_profile("tiny", measured, trace_cases(cases), sheet, numerics="", source="")
    assert profile.seen.batch_size == (1, 1)


@pytest.fixture
def short_probes(monkeypatch):
    monkeypatch.setattr(measure_profile, "PROBE_S", 0.05)
    monkeypatch.setattr(measure_profile, "MATRIX_SIZE", 128)
    monkeypatch.setattr(measure_profile, "STREAM_NUMBERS", 1 << 16)


@pytest.mark.usefixtures("short_probes")
def test_without_sensors_measuring_is_refused():
    cases = measure_profile.choose_cases({"tiny_layers": (8,)}, CPU)[1:2]
    with Meter(sensors=[]) as meter:
        with pytest.raises(UserError, match="no energy was measured"):
            measure_profile.measure_cases(cases, CPU, meter, 0.05, lambda *_: None)
        with pytest.raises(UserError, match="no energy was measured"):
            measure_profile.probe_datasheet(CPU, describe(), meter)


@pytest.mark.usefixtures("short_probes")
def test_a_device_without_data_sheet_is_probed():
    with Meter(sensors=SimulatedMachine.default()) as meter:
        sheet = measure_profile.probe_datasheet(CPU, describe(), meter)
    assert sheet.generic
    assert sheet.kind == "cpu"
    assert min(sheet.vector_flops_per_s, sheet.memory_bytes_per_s, sheet.cache_bytes) > 1e6
    assert sheet.power_limit_w > 0


def test_repeating_runs_at_least_twice():
    done = []
    assert measure_profile.repeat_for(lambda: done.append(1), 0.0, CPU) >= 0
    assert len(done) == 2


@pytest.mark.usefixtures("short_probes")
def test_a_machine_is_measured_from_idle_to_profile(monkeypatch, tmp_path):
    monkeypatch.setenv(SENSORS_ENVIRONMENT, "simulated")
    shapes = {"tiny_layers": (8,), "linear_layers": (1024,)}
    monkeypatch.setattr(microworkloads, "INPUT_SHAPES", shapes)
    monkeypatch.setattr(measure_profile, "LARGEST_BATCH", 4)
    progress, measured = [], []
    profile = measure_profile.measure_profile(
        "here", "cpu", 1.0, lambda done, _: progress.append(done), measured.extend
    )
    write_measurements(tmp_path / "steps.csv", measured)
    again = read_measurements(tmp_path / "steps.csv")
    assert [one.case for one in again] == [one.case for one in measured]
    for read, one in zip(again, measured, strict=True):
        assert read[1:4] == pytest.approx(one[1:4], rel=1e-5)
    assert len(again) == profile.seen.cases
    assert profile.name == "here"
    assert profile.datasheet.kind == "cpu"
    assert profile.seen.architectures == 2
    assert profile.idle_power_w > 0
    assert "busy during the idle measurement" in profile.source
    assert progress == sorted(progress)
    assert progress[-1] == 1.0
