"""``joulelab predict``, ``rank`` and ``hardware fit``, as a user runs them."""

import io
import json
import re
from pathlib import Path

import pandas as pd
import pytest

from joulelab.cli.app import main
from joulelab.predict import load_profile, measurements

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


def test_a_prediction_of_tokens_as_json(run):
    code, out, err = run(
        "predict", "lm:Llama-3.2-1B", "--phase", "decode", "--batch-size", 64,
        "--prompt-tokens", 1000, "--output-tokens", 200, "--json",
    )  # fmt: skip
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert (found["model"], found["input"]) == ("lm:llama-3.2-1b", "1000")
    assert (found["output_tokens"], found["precision"]) == (200, "bf16")
    assert found["j_per_output_token"] == found["energy_per_step_j"] / 64
    low, high = (found[f"j_per_output_token_{end}"] for end in ("low", "high"))
    assert low < found["j_per_output_token"] < high
    assert found["s_per_output_token_low"] < found["s_per_output_token"]
    assert "j_per_input_token" not in found


def test_values_of_a_prediction_are_below_each_other(run):
    _, out, _ = run(
        "predict", "lm:gpt2", "--phase", "decode", "--batch-size", 1, "--prompt-tokens", 1,
        "--output-tokens", 1, "--price", 1, "--currency", "EUR",
    )  # fmt: skip
    lines = out.splitlines()
    assert lines[0] == "lm:gpt2, decode, batch size 1, 1 input token, 1 output token"
    labels = ("per output token ", "tokens per kWh   ", "host, device     ", "a million tokens ")
    values = [line[len(labels[0]) :] for line in lines[2:9] if line.startswith((*labels, "  "))]
    assert len(values) == 5
    assert all(value[0].isdigit() for value in values)
    assert re.search("[0-9] ms \\(95 % CI [0-9.]+–[0-9.]+ ms\\)", values[1])


@pytest.mark.parametrize(
    ("phase", "token", "j_per_token"),
    [("prefill", "input", (0.01, 0.05)), ("train", "trained", (0.03, 0.15))],
)
def test_phases_are_about_different_tokens(run, phase, token, j_per_token):
    """8 GFLOP a parameter and token take an H100 about 30 mJ, and three times that in training."""
    code, out, err = run("predict", "lm:llama-3.1-8b", "--phase", phase, "--batch-size", 8)
    assert (code, err) == (0, "")
    assert f"per {token} token " in out
    assert f"fitted to no such step of a language model ({phase} in 16 bits)" in out
    code, out, _ = run(
        "predict", "lm:llama-3.1-8b", "--phase", phase, "--batch-size", 8, "--json", "--price", 1,
        "--currency", "EUR",
    )  # fmt: skip
    found = json.loads(out)
    low, high = j_per_token
    assert low < found[f"j_per_{token}_token"] < high
    assert found["j_per_token"] == found[f"j_per_{token}_token"]
    price = found["costs_of_million_tokens"]["price"]
    assert price == pytest.approx(found[f"j_per_{token}_token"] / 3.6)


def test_a_profile_moves_to_another_gpu_by_its_data_sheet(run):
    arguments = ("predict", "lm:llama-3.1-8b", "--phase", "serve", "--profile", "h100-vllm")
    here, there = (
        json.loads(run(*arguments, *device, "--json")[1])
        for device in ((), ("--device", "NVIDIA A100-SXM4-40GB"))
    )
    assert "nothing was measured on NVIDIA A100-SXM4-40GB" in there["notes"][0]
    width = [
        found["j_per_output_token_high"] / found["j_per_output_token"] for found in (here, there)
    ]
    assert 1 < width[0] < width[1]
    assert there["seconds_per_step"] > here["seconds_per_step"]
    assert any("is that of the server (vLLM 0.5.4)" in note for note in here["notes"])


def test_a_model_that_does_not_fit_is_noted(run):
    """70.55 G weights of 2 bytes, and 327,680 bytes of cache for each of 4 x 1,000 tokens."""
    arguments = ["predict", "lm:llama-3.1-70b", "--phase", "decode", "--batch-size", 4]
    arguments += ["--prompt-tokens", 900, "--output-tokens", 100, "--json"]
    note = "it does not fit: the step needs about 142 GB, NVIDIA H100 80GB HBM3 has 80.0 GB"
    assert json.loads(run(*arguments)[1])["notes"][0] == note
    _, out, _ = run("predict", "lm:llama-3.1-8b", "--phase", "decode", "--json")
    assert "fit:" not in out


def test_tables_may_hold_language_models(run, tmp_path):
    table = tmp_path / "cases.csv"
    table.write_text(
        "model,phase,batch_size,input,output_tokens,precision\n"
        "lm:gpt2,decode,4,128,64,fp16\n"
        "lm:gpt2,train,4,128,,fp32\n"
        "LeNet,infer,8,3x32x32,,\n"
    )
    code, printed, err = run("predict", "--table", table, "--json")
    assert code == 0, err
    decode, train, image = json.loads(printed)
    assert decode["j_per_output_token"] * 4 == pytest.approx(decode["energy_per_step_j"])
    assert (train["precision"], train["output_tokens"]) == ("fp32", 0)
    assert not [key for key in image if "token" in key]
    code, printed, _ = run("predict", "--table", table)
    rows = pd.read_csv(io.StringIO(printed))
    assert rows["output_tokens"].fillna(-1).tolist() == [64, 0, -1]
    assert rows["j_per_token"].tolist()[:2] == [
        decode["j_per_output_token"], train["j_per_trained_token"],
    ]  # fmt: skip
    assert rows["j_per_token_high"].isna().tolist() == [False, False, True]
    table.write_text("model,phase,batch_size,input\nlm:gpt2,decode,4,128\n")
    code, _, err = run("predict", "--table", table)
    assert (code, "row 1 has no number of output_tokens" in err) == (2, True)


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


def test_a_profile_that_determines_nothing_gives_no_value(run, tmp_path):
    profile = tmp_path / "wild.json"
    load_profile("h100").model_copy(update={"energy_discrepancy": 2.0}).save(profile)
    code, out, _ = run("predict", "LeNet", "--profile", profile, "--country", "DE")
    assert code == 0
    assert "energy per step cannot be determined from this profile: its interval spans" in out
    assert "time per step   1.80 ms (95 % CI" in out
    assert "mean power" not in out
    assert "a million steps" not in out
    code, out, _ = run("predict", "lm:gpt2", "--profile", profile)
    assert "per trained token cannot be determined" in out
    assert "tokens per kWh" not in out
    code, out, _ = run("rank", "LeNet", "VGG16", "--profile", profile)
    assert out.count("cannot be determined") == 2


def test_rank_says_which_order_is_uncertain_and_what_the_predictions_note(run):
    models = ("LeNet", "ResNet18", "PreActResNet18")
    code, out, _ = run("rank", *models, "--phase", "infer", "--batch-size", 1)
    assert code == 0
    pair = "PreActResNet18 with ResNet18"
    assert f"The order is uncertain where intervals overlap: {pair}.\n" in out
    assert "Batch size 1 is outside the measured range (128), which widens the interval.\n" in out
    assert "uncertain" not in run("rank", "LeNet", "ResNet18")[1]


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
        (["predict", "LeNet", "--phase", "decode"], "not a model that generates text"),
        (["predict", "lm:gpt2", "--phase", "infer"], "no phase 'infer'; known are train, prefill"),
        (["predict", "lm:gpt2", "--prompt-tokens", "2000"], "accepts 1,024 tokens, not 2,000"),
        (["predict", "lm:gpt3"], "did you mean gpt2"),
        (["predict", "LeNet", "--device", "Abacus"], "no data sheet of 'Abacus'"),
        (["predict", "LeNet", "--profile", "h100-vllm"], "cannot be predicted for an inference"),
        (["predict", "lm:gpt2", "--profile", "h100-vllm"], "which does not train"),
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


def test_a_study_of_language_models_is_fitted_but_not_predicted(run, study, tmp_path, monkeypatch):
    """A step of decoding becomes one token of each sequence."""
    runs = pd.read_parquet(study / "results.parquet").head(3)
    language = {
        "model": ["lm:tiny", "lm:tiny", "lm:gpt2"], "phase": ["decode", "prefill", "decode"],
        "batch_size": 4, "prompt_tokens": 64, "output_tokens": 32, "precision": "bf16",
        "steps": 10, "tokens": [10 * 4 * 32, 10 * 4 * 64, 10 * 4 * 32],
        "duration_s": [3.2, 0.2, 6.4], "gross_j": [320.0, 30.0, 640.0], "idle_power_w": 50.0,
    }  # fmt: skip
    frame = runs.reset_index(drop=True).assign(**language).astype({"prompt_tokens": "Int64"})
    monkeypatch.setattr(measurements, "run_table", lambda _: frame)
    read = measurements.read_measured(study, (3, 32, 32)).measurements
    assert [one.case.input for one in read] == ["64", "64", "64"]
    assert [one.case.output_tokens for one in read] == [32, 0, 32]
    assert [one.duration_s for one in read] == pytest.approx([0.01, 0.02, 0.02])
    assert [one.energy_j for one in read] == pytest.approx([1.0, 3.0, 2.0])
    code, _, err = run("hardware", "fit", study, "--out", tmp_path / "p.json")
    assert code == 0, err
    seen = json.loads((tmp_path / "p.json").read_text())["seen"]
    assert seen["token_kinds"] == ["decode in 16 bits", "prefill in 16 bits"]
    code, _, err = run("predict", "--study", study)
    assert (code, "is a study of language models" in err) == (2, True)
