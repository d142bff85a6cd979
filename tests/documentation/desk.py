"""A directory with the files that the examples of the documentation use."""

import gzip
import os
import shutil
import subprocess
import sys
from pathlib import Path

import examples

from joulelab import Meter

LOGS = examples.ROOT / "tests" / "logs" / "data"
H100 = examples.ROOT / "tests" / "data" / "h100"
STUDIES = ("mine", "quick", "paper", "desktop", "server")
PLAN = """
name = "mine"
models = ["LeNet"]
sensors = ["simulated"]
repeats = 2
idle_s = 0.2
[data]
name = "synthetic"
train_count = 64
test_count = 32
[factors]
batch_size = [32]
[train]
epochs = 3
warmup_steps = 0
[infer]
passes = 1
warmup_steps = 0
"""
EPOCHS = "epoch,duration_s,gross_j,accuracy_pct\n" + "".join(
    f"{epoch},10,{2500 + 7 * (-1) ** epoch},{95 - 40 / (epoch + 1)}\n" for epoch in range(12)
)


def lay_out(folder):
    """Write the files that all pages use."""
    for name in ("smi", "meter"):
        source = LOGS / f"rtx3090_square_{'nvidia_smi' if name == 'smi' else name}.csv.gz"
        (folder / f"{name}.csv").write_bytes(gzip.decompress(source.read_bytes()))
    shutil.copy(LOGS / "rtx3090_square_marks.csv", folder / "marks.csv")
    (folder / "epochs.csv").write_text(EPOCHS)
    (folder / "plan.toml").write_text(PLAN)
    for data in (LOGS, H100):
        shutil.copytree(data, folder / data.relative_to(examples.ROOT))


def fleet(folder, request):
    """Copy the logs of eight nodes."""
    shutil.copytree(LOGS / "mlperf", folder, dirs_exist_ok=True)


def studies(folder, request):
    """Copy one small study of a simulated machine under the names that pages use."""
    study = request.getfixturevalue("study")
    for name in STUDIES:
        shutil.copytree(study, folder / "studies" / name)


def finished(folder, request):
    """Copy the study that a page runs; the shared one was made by the same command."""
    shutil.copytree(request.getfixturevalue("study"), folder / "mine")


def run(script, folder):
    """Run a shell script as a user would; fail if anything uses the network."""
    log = folder / "network.log"
    environment = {
        "PATH": os.pathsep.join(
            (os.environ["COMMANDS"], str(Path(sys.executable).parent), os.environ["PATH"])
        ),
        "HOME": str(folder),
        "JOULELAB_HOME": str(folder / "home"),
        "COLUMNS": "100",
        "PYTHONPATH": str(Path(__file__).parent / "no_network"),
        "NETWORK_LOG": str(log),
    }
    result = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env=os.environ | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert not log.exists(), log.read_text()
    return result


def recorded(folder, _request):
    """Write a log of an H100 with its spans, and spans for the log of the RTX 3090."""
    (folder / "spans.csv").write_text(
        "name,start_s,stop_s\nidle,-0.15,1.0\nload,1.050233,9.023917\nidle,10,12\n"
    )
    shutil.copy(H100 / "zoo_spans.csv", folder / "runs.csv")
    shutil.copy(H100 / "zoo_power_samples.csv.gz", folder / "samples.csv.gz")
    telemetry = gzip.decompress((H100 / "zoo_telemetry.csv.gz").read_bytes())
    (folder / "telemetry.csv").write_bytes(telemetry)


def traces(folder, _request):
    """Record a trace with a meter in a directory."""
    with Meter(sensors=["simulated"], directory=folder / "mymeter") as meter:
        for index in range(4):
            with meter.span("epoch", index=index):
                sum(range(100_000))
    shutil.copytree(folder / "mymeter", folder / "mytrace")


def limits(folder, _request):
    """Write a table of two power limits, for tuning."""
    (folder / "limits.csv").write_text(
        "power_limit,duration_s,energy_j\n300,1.0,280\n250,1.02,240\n"
    )


def script(folder, _request):
    """Write a program that marks its epochs."""
    (folder / "train.py").write_text(
        "import joulelab\nwith joulelab.Meter() as meter:\n"
        "    for index in range(3):\n        with meter.span('epoch', index=index):\n"
        "            sum(range(1_000_000))\n"
    )


def candidates(folder, _request):
    """Write models to predict, and measured steps."""
    (folder / "candidates.csv").write_text(
        "model,phase,batch_size,input\nLeNet,train,32,3x32x32\nResNet18,infer,64,3x32x32\n"
    )
    results = examples.ROOT / "benchmarks" / "results"
    shutil.copy(results / "h100-fp32-steps.csv", folder / "steps.csv")


def tokens(folder, _request):
    """Write a log of four requests, and power that they explain."""
    rows = [f"{2 + i},{2.5 + i},{5 + i},{200 * (i + 1)},{50 + i}" for i in range(4)]
    header = "start_s,first_token_s,stop_s,input_tokens,output_tokens"
    (folder / "requests.csv").write_text("\n".join([header, *rows]) + "\n")
    power = [f"{i / 10},{100 + 150 * (20 <= i < 80)}" for i in range(120)]
    (folder / "power.csv").write_text("\n".join(["time_s,power_w", *power]) + "\n")


PREPARE = {
    "README": (script, tokens),
    "index": (script,),
    "energy-per-token": (tokens,),
    "report": (script, studies),
    "findings": (studies,),
    "files": (studies, traces),
    "forecast": (studies, traces),
    "ledger": (studies,),
    "import-logs": (recorded,),
    "recorded-fleets": (fleet,),
    "measure-your-code": (traces,),
    "predict": (studies, candidates),
    "data-exchange": (script,),
    "measure-a-command": (script,),
    "trackers": (script,),
    "find-runs": (script, studies),
    "run-a-study": (finished,),
    "watch-live": (studies,),
}
"""Additional files of a page."""
