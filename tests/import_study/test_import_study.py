"""Studies from logs of other tools."""

import json
import math

import pandas as pd
import pytest

from joulelab.findings.tables import StudyTables
from joulelab.recording.trace import read_trace

HEADER = "model,phase,block,batch_size,steps,start_s,stop_s"
ROWS = (
    ",idle,,0,0,1,9",
    "LeNet,train,0,8,10,10,20",
    "LeNet,infer,0,8,20,20,30",
    ",idle,,0,0,31,39",
    "LeNet,train,1,8,10,40,50",
)
IDLE_W = {(0, 10): 100.0, (30, 40): 120.0}


@pytest.fixture(autouse=True)
def own_home(monkeypatch, tmp_path):
    monkeypatch.setenv("JOULELAB_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


def power_at(t_s):
    """Power: 300 W while busy; idle at 100 W, later at 120 W."""
    return next((w for (start, stop), w in IDLE_W.items() if start <= t_s < stop), 300.0)


@pytest.fixture
def power(tmp_path):
    path = tmp_path / "power.csv"
    lines = (f"{i / 20:.2f},{power_at(i / 20)}" for i in range(1201))
    path.write_text("t_s,gpu_power_w\n" + "\n".join(lines) + "\n")
    return path


def table(tmp_path, *rows, header=HEADER, name="spans.csv"):
    path = tmp_path / name
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


@pytest.fixture
def made(tmp_path, power, run):
    def make(*rows, header=HEADER, options=(), out="study"):
        spans = table(tmp_path, *rows, header=header)
        code, said, error = run(
            "import-study", "--power", power, "--spans", spans, "--out", out, *options
        )
        assert (code, error) == (0, "")
        return tmp_path / out, said

    return make


@pytest.fixture
def not_made(tmp_path, power, refused):
    def refuse(*rows, header=HEADER, options=(), out="study"):
        spans = table(tmp_path, *rows, header=header)
        return refused("import-study", "--power", power, "--spans", spans, "--out", out, *options)

    return refuse


def results(directory):
    return StudyTables.read([directory]).runs


def test_net_energy_with_drifting_idle_power(made):
    directory, _ = made(*ROWS)
    rows = results(directory)
    assert list(rows[["model", "phase", "block", "repeat"]].itertuples(index=False, name=None)) == [
        ("LeNet", "train", 0, 0),
        ("LeNet", "infer", 0, 0),
        ("LeNet", "train", 1, 1),
    ]
    assert rows["gross_j"].tolist() == pytest.approx([3000] * 3, rel=0.01)
    # Idle was 100 W at 5 s and 120 W at 35 s: 106.7 W at 15 s, 113.3 W at 25 s.
    assert rows["idle_power_w"].tolist() == pytest.approx([106.67, 113.33, 120], rel=0.01)
    assert rows["net_j"].tolist() == pytest.approx([1933, 1867, 1800], rel=0.01)
    assert rows["samples"].tolist() == [80, 160, 80]
    assert rows["gpu_j"].equals(rows["gross_j"])


def test_characteristics_from_the_registry(made):
    directory, _ = made(*ROWS)
    row = results(directory).iloc[0]
    assert (row["parameters"], row["macs"]) == (62006, 651720)


def test_machine_is_never_the_importing_one(made):
    from joulelab.machine import describe

    directory, _ = made(*ROWS)
    row = results(directory).iloc[0]
    assert row["host"] == "recorded"
    assert pd.isna(row["gpu_name"])
    assert row["machine"] != describe().identity
    machine = json.loads(next(directory.glob("runs/r0-lenet*/run.json")).read_text())["machine"]
    assert machine["cpu_model"] is None
    assert machine["dram_bytes"] is None
    assert machine["packages"] == {}


def test_machine_from_file_and_options(made, tmp_path):
    file = tmp_path / "machine.json"
    file.write_text(json.dumps({"machine": {"host": "n1", "gpus": [{"name": "A100"}]}}))
    directory, _ = made(*ROWS, options=("--machine", file, "--host", "n2"))
    row = results(directory).iloc[0]
    assert (row["host"], row["gpu_name"]) == ("n2", "A100")
    directory, _ = made(*ROWS, options=("--gpu-name", "H100"), out="other")
    assert results(directory).iloc[0]["gpu_name"] == "H100"


def test_unknown_values_are_empty(made):
    directory, _ = made("mine,train,10,20", header="model,phase,start_s,stop_s")
    row = results(directory).iloc[0]
    empty = (
        *("net_j", "samples", "steps", "epochs", "batch_size", "precision", "parameters", "loss"),
        *("accuracy_pct", "gpu_utilization_pct", "vram_peak_bytes", "gross_j_per_sample"),
    )
    assert [name for name in empty if not pd.isna(row[name])] == []
    run = json.loads(next(directory.glob("runs/r0-mine*/run.json")).read_text())
    assert run["started_unix_s"] is None


def test_power_limits_are_numbers(made):
    rows = "mine,train,10,20,250", "mine,train,25,30,300"
    directory, _ = made(*rows, header="model,phase,start_s,stop_s,power_limit_w")
    assert sorted(results(directory)["power_limit_w"]) == [250.0, 300.0]


def test_notes_state_what_is_unknown(made):
    _, said = made("mine,train,10,20,7", header="model,phase,start_s,stop_s,lr")
    assert "net energies are unknown" in said
    assert "characteristics of mine are unknown" in said
    assert "column 'lr' is unknown and saved" in said


def test_code_named_in_a_table_is_not_run(made, tmp_path, monkeypatch):
    (tmp_path / "evil.py").write_text("open('ran', 'w')\ndef model(): pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    _, said = made("evil:model,train,10,20", header="model,phase,start_s,stop_s")
    assert "not run" in said
    assert not (tmp_path / "ran").exists()


def test_characteristics_of_the_table_have_priority(made):
    header = "model,phase,start_s,stop_s,parameters,macs,buffer_bytes,parameter_bytes"
    directory, _ = made("mine,train,10,20,50,200,8,200", header=header)
    row = results(directory).iloc[0]
    assert (row["parameters"], row["macs_per_parameter"], row["size_bytes"]) == (50, 4, 208)


def test_epochs(made):
    header = "model,phase,epoch,start_s,stop_s,steps,batch_size,loss,accuracy_pct"
    directory, _ = made(
        "mine,train,0,10,15,10,8,2.5,30",
        "mine,train,1,15,20,10,8,1.5,60",
        "mine,infer,,20,22,5,8,,61",
        header=header,
    )
    data = StudyTables.read([directory])
    train, infer = data.runs.to_dict("records")
    assert (train["epochs"], train["steps"], train["samples"]) == (2, 20, 160)
    assert (train["loss"], train["accuracy_pct"]) == (1.5, 60)
    assert infer["accuracy_pct"] == 61
    assert data.epochs["gross_j"].tolist() == pytest.approx([1500, 1500], rel=0.01)
    assert data.epochs["loss"].tolist() == [2.5, 1.5]


def test_repeated_runs(made):
    directory, _ = made(
        "mine,train,8,10,12", "mine,train,8,13,15", "mine,train,16,16,18",
        header="model,phase,batch_size,start_s,stop_s",
    )  # fmt: skip
    rows = results(directory)
    assert list(zip(rows["batch_size"], rows["repeat"], strict=True)) == [(8, 0), (8, 1), (16, 0)]
    assert rows["run_id"].nunique() == 3


def test_renamed_columns_and_phases(made):
    rows = ("mine,training,10,12", "mine,warmup,12,13", "mine,test,13,15", ",pause,1,9")
    options = (
        "--rename", "net=model", "--rename", "stage=phase", "--phase", "training=train",
        "--phase", "test=infer", "--phase", "pause=idle", "--phase", "warmup=ignore",
    )  # fmt: skip
    directory, said = made(*rows, header="net,stage,start_s,stop_s", options=options)
    found = results(directory)
    assert found["phase"].tolist() == ["train", "infer"]
    assert found["net_j"].notna().all()
    assert "ignored 1 span" in said


def test_idle_between_two_times(made):
    directory, _ = made("mine,train,10,20", header="model,phase,start_s,stop_s",
                        options=("--idle", "1:9"))  # fmt: skip
    assert results(directory)["net_j"].tolist() == pytest.approx([2000], rel=0.01)


def counted(tmp_path, scale):
    """Log a counter of ``scale`` times the energy of the log of power, every 50 ms."""
    path = tmp_path / "counter.csv"
    energy_j, lines = 0.0, ["t_s,gpu_energy_j"]
    for i in range(1200):
        lines.append(f"{i / 20:.2f},{energy_j:.4f}")
        energy_j += scale * power_at(i / 20) / 20
    path.write_text("\n".join(lines) + "\n")
    return path


def test_power_is_scaled_to_a_counter_in_the_telemetry(made, tmp_path):
    counter = counted(tmp_path, 1.03)
    directory, _ = made(*ROWS, options=("--telemetry", counter))
    rows = results(directory)
    assert rows["sources"].unique().tolist() == ["gpu=log.gpu_power+log.gpu_energy"]
    # The longer the recording, the more of the counter's 3 %.
    assert rows["gross_j"].tolist() == pytest.approx([3090] * 3, rel=0.01)
    assert (rows["gross_j"] > 3060).all()


def test_counter_of_another_component_is_not_added(made, tmp_path):
    counter = counted(tmp_path, 2.0)
    counter.write_text(counter.read_text().replace("gpu_energy_j", "cpu_energy_j"))
    first, _ = made(*ROWS, out="first")
    second, _ = made(*ROWS, options=("--telemetry", counter), out="second")
    assert results(second)["gross_j"].tolist() == results(first)["gross_j"].tolist()


def test_power_of_unnamed_component_is_assigned_to_the_gpu(made, tmp_path):
    log = tmp_path / "power.csv"
    log.write_text(log.read_text().replace("gpu_power_w", "power_w"))
    directory, _ = made(*ROWS, out="unnamed")
    assert results(directory)["gpu_j"].isna().all()
    directory, said = made(*ROWS, options=("--gpu-name", "A100"))
    assert "assuming that power_w of power.csv is the power of gpu:0" in said
    assert results(directory)["gpu_j"].tolist() == results(directory)["gross_j"].tolist()


def test_telemetry(made, tmp_path):
    path = tmp_path / "more.csv"
    lines = (f"{i / 10},{90 if i < 200 else 40} %,1024 MiB,61" for i in range(600))
    header = "timestamp,utilization.gpu [%],memory.used [MiB],temperature.gpu\n"
    path.write_text(header + "\n".join(lines) + "\n")
    directory, _ = made(*ROWS, options=("--telemetry", path))
    rows = results(directory)
    assert rows["gpu_utilization_pct"].tolist() == pytest.approx([90, 40, 40], rel=0.02)
    trace = read_trace(next(directory.glob("runs/r0-lenet*")))
    kinds = {str(channel.quantity): i for i, channel in enumerate(trace.channels)}
    assert trace.series[kinds["memory_used_bytes"]].value[0] == 2**30
    assert trace.series[kinds["temperature_c"]].value[0] == 61


def test_log_of_nvidia_smi_with_telemetry(tmp_path, printed):
    path = tmp_path / "smi.csv"
    lines = [
        f"2024/01/31 12:{i // 600:02}:{i / 10 % 60:06.3f}, {gpu}, H200, {200 + gpu} W, 70 %"
        for i in range(1200)
        for gpu in (0, 1)
    ]
    header = "timestamp, index, name, power.draw [W], utilization.gpu [%]\n"
    path.write_text(header + "\n".join(lines) + "\n")
    spans = table(
        tmp_path,
        "mine,train,2024-01-31 12:00:20,2024-01-31 12:00:40",
        header="model,phase,start_s,stop_s",
    )
    printed("import-study", "--power", path, "--spans", spans, "--timezone", "UTC", "--out", "smi")
    [row] = results(tmp_path / "smi").to_dict("records")
    assert row["gross_j"] == pytest.approx(401 * 20, rel=0.01)
    assert (row["gpu_name"], row["gpu_utilization_pct"]) == ("H200", 70)
    run_file = next((tmp_path / "smi").glob("runs/*/run.json"))
    assert json.loads(run_file.read_text())["started_unix_s"] == pytest.approx(1706702420)


def test_json(made):
    directory, said = made(*ROWS, options=("--json",))
    printed = json.loads(said)
    assert printed["directory"] == str(directory)
    assert (printed["runs"], printed["idle_runs"], printed["models"]) == (2, 3, ["LeNet"])
    assert all(path.startswith(str(directory)) for path in printed["results"])


def test_replacement_of_an_imported_study_and_its_report(made, not_made):
    directory, _ = made(*ROWS)
    (directory / "report.html").write_text("the report of the old study")
    assert "--force" in not_made(*ROWS)
    assert (directory / "report.html").exists()
    made(ROWS[1], options=("--force",))
    assert len(results(directory)) == 1
    assert not (directory / "report.html").exists()


def test_only_imported_studies_are_replaced(made, not_made, tmp_path, synthetic):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("dear")
    assert "is not empty" in not_made(*ROWS, out="full", options=("--force",))
    synthetic.Writer(tmp_path / "measured")
    assert "was measured" in not_made(*ROWS, out="measured", options=("--force",))
    directory, _ = made(*ROWS)
    (directory / "notes.txt").write_text("mine")
    assert "notes.txt" in not_made(*ROWS, options=("--force",))
    assert (directory / "notes.txt").read_text() == "mine"


def test_study_appears_whole_or_not_at_all(made, not_made, tmp_path, monkeypatch):
    from joulelab.import_study import study as recorded

    directory, _ = made(*ROWS)
    before = sorted(path.name for path in directory.glob("runs/*"))

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(recorded, "_write_trace", full_disk)
    assert "No space left" in not_made(ROWS[1], options=("--force",))
    assert "No space left" in not_made(ROWS[1], out="new")
    assert sorted(path.name for path in directory.glob("runs/*")) == before
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["study"]


def test_leftovers_of_a_killed_process_are_removed(made, tmp_path):
    left = tmp_path / ".study.partial"
    (left / "runs").mkdir(parents=True)
    (left / "plan.toml").write_text("half")
    made(*ROWS)
    assert not left.exists()


def test_the_same_logs_give_the_same_study(made):
    first, _ = made(*ROWS, out="a/study")
    second, _ = made(*ROWS, out="b/study")
    files = [path.relative_to(first) for path in first.rglob("*") if path.is_file()]
    differ = [
        path
        for path in files
        if path.name != ".lock" and (first / path).read_bytes() != (second / path).read_bytes()
    ]
    assert len(files) > 10
    assert differ == []


def test_imported_study_cannot_be_run(made, refused):
    directory, _ = made(*ROWS)
    assert "recorded logs" in refused("study", directory / "plan.toml")


@pytest.mark.parametrize(
    ("rows", "header", "options", "words"),
    [
        (["m,train,112,120"], None, (), "row 1 is outside the log: it goes from 112 to 120 s"),
        (["m,cooling,10,20"], None, (), "'cooling' is not train, infer or idle; state what"),
        (["m,train,10,20", "m,train,10,20"], None, (), "row 1 and row 2 are of the same time"),
        (["m,train,10,20", "m,infer,19,30"], None, (), "row 1 and row 2 overlap"),
        (["m,train,10,10"], None, (), "row 1 has no length"),
        ([",train,10,20"], None, (), "has no model"),
        ([",idle,1,9"], None, (), "so there is no run"),
        (["train,10,20"], "name,start_s,stop_s", (), "no column 'model'"),
        (["m,10,20"], "model,start_s,stop_s", (), "no column 'phase'"),
        (["m,train,20"], "model,phase,stop_s", (), "no column 'start_s'"),
        (["m,m,train,1,2"], "model,model,phase,start_s,stop_s", (), "two columns 'model'"),
        (["m,train,10,20,x"], "model,phase,start_s,stop_s,steps", (), "steps is 'x'"),
        (["m,train,10,20,0"], "model,phase,start_s,stop_s,batch_size", (), "1 or more"),
        (["m,train,10,20,120"], "model,phase,start_s,stop_s,accuracy_pct", (), "0 and 100"),
        (["m,train,10,20,maybe"], "model,phase,start_s,stop_s,compile", (), "true or false"),
        (
            ["m,train,1,10,20", "m,train,1,21,30"], "model,phase,repeat,start_s,stop_s", (),
            "both the train phase of one run",
        ),
        (
            ["m,train,10,20,5", "m,infer,21,30,6"], "model,phase,start_s,stop_s,macs", (),
            "macs of m is 6: earlier it was 5",
        ),
        (["m,train,10,20"], None, ("--phase", "train=learn"), "no phase 'learn'"),
        (["m,train,10,20"], None, ("--phase", "train"), "--phase train: expected"),
        (["m,train,10,20"], None, ("--rename", "modl=model"), "did you mean model?"),
        (["m,train,10,20"], None, ("--input", "3x0"), "--input 3x0: not a shape"),
        (["m,train,10,20"], None, ("--idle", "5:15"), "--idle and row 1 overlap"),
        (["m,train,10,20"], None, ("--telemetry", "power.csv"), "no column of utilisation"),
    ],
)  # fmt: skip
def test_user_errors(not_made, tmp_path, rows, header, options, words):
    header = header or "model,phase,start_s,stop_s"
    assert words in not_made(*rows, header=header, options=options)
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[]", "does not describe a machine"),
        ("{", "is not JSON"),
        ('{"hots": "x"}', "did you mean host?"),
        ('{"gpus": [{"nam": "x"}]}', "did you mean name?"),
        ('{"gpus": "H100"}', "not a list"),
        ('{"dram_bytes": "64 GB"}', "another type"),
    ],
)
def test_wrong_machine_files(not_made, tmp_path, text, words):
    path = tmp_path / "machine.json"
    path.write_text(text)
    assert words in not_made(*ROWS, options=("--machine", path))


def test_characteristics_are_unknown_without_pytorch(made, monkeypatch):
    from joulelab.errors import UserError
    from joulelab.import_study import descriptions as recorded_models

    def missing():
        raise UserError("models need PyTorch", hint="run pip install 'joulelab[study]'")

    monkeypatch.setattr(recorded_models, "require_torch", missing)
    directory, said = made(*ROWS)
    assert "characteristics of LeNet are unknown: models need PyTorch" in said
    assert math.isnan(results(directory)["macs_per_parameter"].iloc[0])
