"""``joulelab predict``, ``rank`` and ``hardware fit``, as a user runs them."""

import json
from pathlib import Path

import pandas as pd
import pytest

from joulelab.cli.app import main
from joulelab.predict import measurements

DATA = Path(__file__).parents[1] / "data" / "h100"


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A study of three models from the recording of an H100."""
    directory = tmp_path_factory.mktemp("recorded")
    spans = pd.read_csv(DATA / "zoo_spans.csv")
    chosen = spans["model"].isin(["LeNet", "VGG16", "MobileNet"]) | (spans["phase"] == "idle")
    spans[chosen].to_csv(directory / "spans.csv", index=False)
    with pytest.raises(SystemExit) as stop:
        main([
            "import-study", "--power", str(DATA / "zoo_power_samples.csv.gz"),
            "--spans", str(directory / "spans.csv"), "--out", str(directory / "study"),
            "--gpu-name", "NVIDIA H100 80GB HBM3",
        ])  # fmt: skip
    assert stop.value.code == 0
    return directory / "study"


def test_a_prediction_as_json(run):
    code, out, err = run("predict", "resnet-18", "--profile", "h100", "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert found["model"] == "ResNet18"
    assert (found["phase"], found["batch_size"], found["input"]) == ("train", 128, "3x32x32")
    assert found["energy_low_j"] < found["energy_per_step_j"] < found["energy_high_j"]
    assert found["seconds_low"] < found["seconds_per_step"] < found["seconds_high"]
    kinds = {share["kind"]: share for share in found["operators"]}
    assert kinds["convolution"]["flops"] > 1e11
    assert kinds["elementwise"]["flops"] == 0
    assert list(kinds["convolution"]) == [
        "kind", "launches", "flops", "bytes", "device_s", "energy_j",
    ]  # fmt: skip


def test_a_prediction_as_text(run):
    code, out, _ = run("predict", "LeNet", "--phase", "infer", "--batch-size", 8)
    assert code == 0
    assert "NVIDIA H100 80GB HBM3" in out
    assert "per 1,000 samples" in out
    assert "95 % CI" in out
    assert "Batch size 8 is outside the measured range (128)" in out


def test_a_table_of_cases_is_predicted(run, tmp_path):
    table, out = tmp_path / "cases.csv", tmp_path / "found.csv"
    table.write_text(
        "model,phase,batch_size,input,note\n"
        "MobileNet,train,64,3x64x64,a\n"
        "LeNet,infer,8,3x32x32,b\n"
        "MobileNet,infer,64,3x64x64,c\n"
    )
    code, printed, err = run("predict", "--table", table, "--out", out, "--classes", 1000)
    assert code == 0, err
    found = pd.read_csv(out)
    assert found["model"].tolist() == ["MobileNet", "LeNet", "MobileNet"]
    assert found["phase"].tolist() == ["train", "infer", "infer"]
    assert (found["energy_low_j"] < found["energy_per_step_j"]).all()
    assert (found["energy_per_step_j"] < found["energy_high_j"]).all()
    assert (found["seconds_per_step"] > 0).all()
    code, printed, _ = run("predict", "--table", table, "--json")
    assert [one["phase"] for one in json.loads(printed)] == ["train", "infer", "infer"]
    code, printed, _ = run("predict", "--table", table)
    assert printed.splitlines()[0].startswith("model,phase,batch_size,input,energy_per_step_j")


def test_predictions_of_a_study_are_written_into_it(run, study):
    code, out, err = run("predict", "--study", study)
    assert code == 0, err
    assert "6 predictions" in out
    found = pd.read_parquet(study / "predictions.parquet")
    assert list(found) == [
        "model", "phase", "batch_size", "energy_per_step_j", "energy_low_j", "energy_high_j",
        "seconds_per_step",
    ]  # fmt: skip
    results = pd.read_parquet(study / "results.parquet")
    measured = (results["gross_j"] / results["steps"]).groupby(
        [results["model"], results["phase"]]
    ).median()  # fmt: skip
    for row in found.itertuples():
        truth = measured[row.model, row.phase]
        assert 0.7 < row.energy_per_step_j / truth < 1.4


def test_a_profile_is_fitted_to_a_study(run, study, tmp_path):
    out = tmp_path / "p.json"
    code, printed, err = run("hardware", "fit", study, "--out", out)
    assert code == 0, err
    assert "6 steps of 3 models" in printed
    profile = json.loads(out.read_text())
    assert 110 < profile["idle_power_w"] < 130
    assert profile["datasheet"]["device"] == "NVIDIA H100 80GB HBM3"


def test_a_study_on_the_cpu_is_fitted_as_one(run, study, tmp_path, monkeypatch):
    read = measurements.read_study
    on_cpu = {"resolved_device": "cpu"}
    monkeypatch.setattr(measurements, "read_study", lambda *where: read(*where).assign(**on_cpu))
    code, _, err = run("hardware", "fit", study, "--out", tmp_path / "p.json")
    assert code == 0, err
    assert json.loads((tmp_path / "p.json").read_text())["datasheet"]["kind"] == "cpu"


def test_rank_shows_the_papers_estimators(run, study):
    code, out, err = run("rank", "VGG16", "LeNet", "MobileNet", "--study", study, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert [one["model"] for one in found["models"]] == ["LeNet", "VGG16", "MobileNet"]
    energies = [one["j_per_1000_samples"] for one in found["models"]]
    assert energies == sorted(energies)
    assert found["models"][0]["macs"] == 651_720
    assert {row["phase"] for row in found["spearman"]} == {"train", "infer"}
    for row in found["spearman"]:
        assert row["models"] == 3
        assert -1 <= row["predicted_j"]["value"] <= 1
        assert row["predicted_j"]["low"] is None  # three models are too few for an interval
    code, out, _ = run("rank", "LeNet", "--study", study)
    assert code == 0
    assert "Spearman correlation, measured energy of 3 models (train)" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predict"], "give MODEL, --table or --study"),
        (["predict", "LeNet", "--out", "x.csv"], "--out requires --table"),
        (["predict", "ResNet81"], "did you mean ResNet18"),
        (["predict", "LeNet", "--profile", "h101"], "did you mean h100"),
        (["predict", "LeNet", "--input", "3x64x64"], "LeNet does not accept 128x3x64x64"),
        (["predict", "LeNet", "--input", "3,32,32"], "is not the shape of a sample"),
        (["predict", "LeNet", "--phase", "test"], "--phase"),
        (["predict", "torch.nn:Identity", "--phase", "train"], "the model cannot be trained"),
        (["rank"], "MODEL"),
        (["rank", "LeNet", "--study", "."], "study"),
        (["hardware", "fit", "nowhere.csv", "--out", "x"], "nowhere.csv"),
        (["hardware", "calibrate", "--out", "x", "--device", "cuda:99"], "cuda:99"),
    ],
)
def test_invalid_requests_exit_with_2_and_one_line(run, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
