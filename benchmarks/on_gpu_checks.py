"""The checks of ``benchmarks/on_gpu.sh``, each in a process of its own.

``python -m benchmarks.on_gpu_checks CHECK SECONDS FILE`` writes JSON to FILE, also while it runs.
Its keys are the check's; ``skipped`` or ``failed`` hold a reason, ``note`` what there was no time
for. No setting of the GPU is changed.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pynvml

from benchmarks.real_gpu import measure, run_load
from benchmarks.tool_environments import ToolEnvironment
from joulelab.format import finite_or_none
from joulelab.sensors.nvml_channels import SAME_STAMP_US
from joulelab.storage import write_whole

Save = Callable[[Mapping[str, Any]], None]

PROFILE, STEPS = "profile.json", "calibration-steps.csv"
RING_PAUSE_S, COUNTER_PAUSE_S, AGREEMENT_WINDOW_S = 1.0, 0.02, 2.0
IMAGE = "3x224x224"
CASES = (
    ("LeNet", "infer", 1, "3x32x32"),
    ("torchvision:resnet50", "train", 64, IMAGE),
    ("torchvision:vit_b_16", "infer", 64, IMAGE),
    ("ResNet18", "train", 128, "3x32x32"),
    ("torchvision:convnext_tiny", "train", 32, IMAGE),
    ("torchvision:efficientnet_b0", "infer", 64, IMAGE),
    ("DenseNet121", "train", 64, "3x32x32"),
    ("torchvision:resnet50", "infer", 1, IMAGE),
    ("MobileNetV2", "infer", 256, "3x32x32"),
    ("torchvision:mobilenet_v3_large", "train", 128, IMAGE),
    ("VGG16", "train", 512, "3x32x32"),
    ("SENet18", "infer", 128, "3x32x32"),
    ("torchvision:swin_t", "train", 32, IMAGE),
    ("ShuffleNetV2", "train", 256, "3x32x32"),
    ("torchvision:resnet50", "infer", 128, IMAGE),
    ("torchvision:regnet_y_1_6gf", "train", 64, IMAGE),
    ("LeNet", "train", 128, "3x32x32"),
    ("torchvision:convnext_tiny", "infer", 128, IMAGE),
    ("ResNet18", "infer", 1024, "3x32x32"),
    ("torchvision:vit_b_16", "train", 32, IMAGE),
)
"""In this order, so that those that there is time for are of all kinds."""
CPU_CASES = (("LeNet", "train", 8, "3x32x32"), ("LeNet", "infer", 8, "3x32x32"))
"""Without a GPU, only that the check works is of interest."""
CPU_LANGUAGE = (
    "models=['lm:tiny']", "factors.device='cpu'", "factors.precision='fp32'", "idle_s=0.5",
    "factors.prompt_tokens=16", "factors.output_tokens=4", "infer.warmup_steps=0",
)  # fmt: skip
STEPS_SHARE, LAST_START_SHARE = 0.5, 0.8
"""Share of the time in which steps are repeated; the rest is for building models and for cuDNN's
search. After the other share no step is begun."""
LANGUAGE_STOP_SHARE = 0.9
LOADS = ("steady", "square")
LOAD_START_S, ROUND_S = 6.0, 2.7
"""Time to start a load and the meter, and for one window of each length with its pause."""


def main(arguments: Sequence[str]) -> None:
    name, seconds, path = arguments
    checks: dict[str, Callable[[float, Save], None]] = {
        "sensors": sensors,
        "processes": processes,
        "ring": ring,
        "windows": windows,
        "slowdown": slowdown,
        "torchrun": torchrun,
        "rank": rank,
        "doctor": doctor,
        "calibrate": calibrate,
        "predictions": predictions,
        "language": language,
    }
    saved: dict[str, Any] = {"folder": str(Path(path).parent)}

    def save(result: Mapping[str, Any]) -> None:
        saved.update(result)
        text = json.dumps(finite_or_none({key: saved[key] for key in saved if key != "folder"}))
        write_whole(Path(path), text.encode())

    os.chdir(Path(path).parent)
    checks[name](float(seconds), save)


def sensors(_: float, save: Save) -> None:
    """List what ``joulelab doctor`` finds."""
    done = _joulelab("doctor", "--json")
    found = json.loads(done.stdout)
    save(
        {
            "sensors": [
                {key: one[key] for key in ("component", "source", "quantity", "update_period_s")}
                for one in found["sensors"]
            ],
            "absent": found["absent"],
        }
    )


def processes(_: float, save: Save) -> None:
    """Check who holds a context on the GPU, by the driver, before and while this process does."""
    import joulelab  # noqa: PLC0415 - the lists are read before anything can start CUDA

    found: dict[str, Any] = {"own_pid": os.getpid(), "before": _gpu_pids()}
    with joulelab.Meter(sensors=["gpu"]) as meter:
        with meter.span("nothing"):
            pass
        found["while recording"] = _gpu_pids()
        found["recorder_pid"] = meter.recorder_pid
        import torch  # noqa: PLC0415

        has_context = getattr(torch._C, "_cuda_hasPrimaryContext", None)
        found["lists_contexts"] = has_context is not None
        has_gpu = torch.cuda.is_available()
        if has_gpu and has_context is not None:
            found["context_before_work"] = has_context(0)
        with meter.span("work") as span:
            if has_gpu:
                _work_for(2.0)
        found["while working"] = _gpu_pids()
        if has_gpu and has_context is not None:
            found["context_after_work"] = has_context(0)
        found["device_window"] = span.device_window() is not None
        energy = span.energy
    found["energy"] = energy.to_json()
    found["shown"] = str(energy)
    lists = [found[key] for key in ("before", "while recording", "while working")]
    found["lists_own_pid"] = isinstance(lists[2], list) and os.getpid() in lists[2]
    if found.get("context_before_work"):
        found["failed"] = "recording made a CUDA context in this process"
    elif isinstance(lists[1], list) and meter.recorder_pid in lists[1]:
        found["failed"] = "the recorder has a context on the GPU"
    elif has_gpu and not found["device_window"]:
        found["failed"] = "a span of work on the GPU has no times on the GPU's clock"
    save(found)


def ring(seconds: float, save: Save) -> None:
    """Integrate the driver's buffered power samples, and compare with its energy counter."""
    pynvml.nvmlInit()
    handle = pynvml.nvmlDeviceGetHandleByIndex(0)
    try:
        _read_ring(handle, 0)
        pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except pynvml.NVMLError as error:
        save({"skipped": f"this GPU has no buffered samples or no counter: {error}"})
        return
    rows: list[dict[str, Any]] = []
    for load in LOADS:
        with run_load(load):
            samples, readings = _follow(handle, max(6.0, seconds / len(LOADS)))
        recorded = {"samples": samples, "counter": readings}
        write_whole(Path(f"power-{load}.json"), json.dumps(recorded).encode())
        rows.append({"load": load, **agreement(samples, readings)})
        save({"rows": rows})


def agreement(
    samples: Sequence[tuple[float, float]], readings: Sequence[tuple[float, float]]
) -> dict[str, Any]:
    """Compare the energies of windows by samples and by the counter.

    Args:
        samples: End of each sample's window in s, and its mean power in W.
        readings: Time in s and energy in J by the counter.

    Returns:
        The number of windows, the period of the samples, and the median and the extremes of the
        relative difference of their mean powers; the counter's are by linear least squares.
    """
    stamps_s, powers_w = np.array(samples).T
    times_s, energies_j = np.array(readings).T
    # The counter's value is that of its last update, which is noticed a little late.
    updates = np.append(True, np.diff(energies_j) > 0)
    times_s, energies_j = times_s[updates], energies_j[updates]
    sums_j = np.append(0.0, np.cumsum(powers_w[1:] * np.diff(stamps_s)))
    first_s = max(stamps_s[0], times_s[0])
    last_s = min(stamps_s[-1], times_s[-1])
    edges_s = np.arange(first_s, last_s, AGREEMENT_WINDOW_S)
    by_ring_w = np.diff(np.interp(edges_s, stamps_s, sums_j)) / AGREEMENT_WINDOW_S
    by_counter_w = []
    for start_s in edges_s[:-1]:
        inside = (times_s >= start_s) & (times_s <= start_s + AGREEMENT_WINDOW_S)
        slope = np.polyfit(times_s[inside] - start_s, energies_j[inside] - energies_j[0], 1)
        by_counter_w.append(slope[0])
    difference_pct = 100 * (by_ring_w / np.array(by_counter_w) - 1)
    return {
        "windows": len(difference_pct),
        "period_s": float(np.median(np.diff(stamps_s))),
        "median_pct": float(np.median(difference_pct)),
        "least_pct": float(difference_pct.min()),
        "most_pct": float(difference_pct.max()),
    }


def windows(seconds: float, save: Save) -> None:
    """Compare windows of known mean power with the energy counter; see :mod:`real_gpu`."""
    # Each load takes about the same time: starting, the long window, both sides, the others.
    reach_s = max(2.0, seconds / 16)
    warm_up_s = reach_s / 2
    others_s = seconds / len(LOADS) - LOAD_START_S - warm_up_s - 3 * reach_s
    count = max(3, round(others_s / ROUND_S))
    tool = ToolEnvironment(Path(sys.executable), {})
    rows = measure({"joulelab": tool}, count, warm_up_s=warm_up_s, reach_s=reach_s)
    save({"rows": rows})


def slowdown(seconds: float, save: Save) -> None:
    """Measure the slow-down of a training loop; see :mod:`benchmarks.slowdown`."""
    from benchmarks import slowdown as benchmark  # noqa: PLC0415 - imports torch

    block_s = 1.0 if seconds >= 30 else 0.2
    rounds = max(3, round(0.6 * seconds / (len(benchmark.CONDITIONS) * block_s + 1)))
    slices = max(2 * benchmark.SLICES_PER_FLUSH, round(25 * seconds))
    save(benchmark.measure(rounds=rounds, block_s=block_s, slices=slices))
    save({"costs_us": benchmark.span_costs(max(20, round(5 * seconds)))})


def torchrun(seconds: float, save: Save) -> None:
    """Let two ranks use one GPU and share one recorder."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    files = [Path(f"rank-{number}.json") for number in range(2)]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"),
            *("--master-addr", "127.0.0.1", "--master-port", str(port)),
            *("-m", "benchmarks.on_gpu_checks", "rank", str(min(4.0, seconds / 3))),
            str(Path("rank.json").resolve()),
        ],
        env=os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode or not all(file.exists() for file in files):
        save({"failed": (done.stderr.strip().splitlines() or ["no output"])[-1]})
        return
    ranks = [json.loads(file.read_text()) for file in files]
    result: dict[str, Any] = {"ranks": ranks}
    if len({one["recorder_pid"] for one in ranks}) != 1:
        result["failed"] = "the ranks have a recorder each"
    elif not all(one["components"] for one in ranks):
        result["failed"] = "a rank has no energy"
    save(result)


def rank(seconds: float, save: Save) -> None:
    """Measure one rank: as many barriers as there are pieces of work, so both end together."""
    import torch.distributed as dist  # noqa: PLC0415

    import joulelab  # noqa: PLC0415

    dist.init_process_group("gloo")
    number = dist.get_rank()
    with joulelab.Meter() as meter:
        dist.barrier()
        with meter.span("work") as span:
            _work_for(seconds)
            dist.barrier()
        energy = span.energy
        found = {
            "rank": number,
            "recorder_pid": meter.recorder_pid,
            "duration_s": span.duration_s,
            "gross_j": energy.gross_j,
            "components": {name: part.gross_j for name, part in energy.components.items()},
            "failure": meter.failure,
        }
        dist.barrier()
    dist.destroy_process_group()
    text = json.dumps(finite_or_none(found))
    write_whole(Path(f"rank-{number}.json"), text.encode())
    save({})


def doctor(_: float, save: Save) -> None:
    """Run the self-test, if this version has one."""
    if "--check" not in _joulelab("doctor", "--help").stdout:
        save({"skipped": "this version has no joulelab doctor --check"})
        return
    done = _joulelab("doctor", "--check", check=False)
    save({"exit_code": done.returncode, "output": done.stdout[-4000:]})
    if done.returncode:
        save({"failed": f"exit code {done.returncode}"})


def calibrate(seconds: float, save: Save) -> None:
    """Measure a profile of this machine."""
    # The rest is for choosing batch sizes, tracing models and fitting.
    budget_s = str(max(10.0, 0.6 * seconds))
    out = ("--out", PROFILE, "--steps", STEPS, "--seconds", budget_s)
    done = _joulelab("hardware", "calibrate", *out, check=False)
    save({"output": done.stdout})
    if done.returncode:
        save({"failed": (done.stderr.strip().splitlines() or ["no output"])[-1]})


def predictions(seconds: float, save: Save) -> None:
    """Predict steps with the profile of this machine, and measure them."""
    if not Path(PROFILE).exists():
        save({"failed": "there is no profile: joulelab hardware calibrate did not finish"})
        return
    import torch  # noqa: PLC0415 - takes seconds

    import joulelab  # noqa: PLC0415
    from joulelab.models.registry import parse_input_shape  # noqa: PLC0415
    from joulelab.predict import Case, load_profile, predict  # noqa: PLC0415
    from joulelab.predict.measure_profile import (  # noqa: PLC0415
        TimedCase,
        measure_timed,
        searching_cudnn,
        time_case,
    )

    has_gpu = torch.cuda.is_available()
    device = torch.device("cuda" if has_gpu else "cpu")
    profile = load_profile(PROFILE)
    listed = [
        Case(model, phase, batch_size, parse_input_shape(shape))
        for model, phase, batch_size, shape in (CASES if has_gpu else CPU_CASES)
    ]
    timed: list[TimedCase] = []
    failures: list[str] = []
    with (
        joulelab.Meter(sensors=["gpu"] if has_gpu else ["cpu", "dram"]) as meter,
        searching_cudnn(),  # as in the calibration
    ):
        stop_s = time.monotonic() + LAST_START_SHARE * seconds
        for case in listed:
            if time.monotonic() > stop_s:
                break
            try:
                timed.append(time_case(case, device, meter, STEPS_SHARE * seconds / len(listed)))
            except Exception as error:  # noqa: BLE001  (the other cases can be measured)
                failures.append(f"{case.model}, {case.phase}, {case.batch_size}: {error}")
            if has_gpu:
                torch.cuda.empty_cache()
        measured = measure_timed(timed, meter)
    cases = [one.case for one in measured]
    by_profile = predict(cases, profile) if cases else []
    rows = [
        {
            **predicted.to_row(),
            "seconds_low": predicted.seconds_low,
            "seconds_high": predicted.seconds_high,
            "measured_seconds_per_step": found.duration_s,
            "measured_energy_per_step_j": found.energy_j,
        }
        for found, predicted in zip(measured, by_profile, strict=True)
    ]
    save({"rows": rows, "failures": failures, **_prediction_errors(rows)})
    if failures:
        save({"failed": f"{len(failures)} of {len(listed)} steps: {failures[0]}"})
    elif len(rows) < len(listed):
        save({"note": f"{len(rows)} of {len(listed)} steps in the time"})


def language(seconds: float, save: Save) -> None:
    """Measure joules per token in prefill and decoding, at batch sizes from 1 to 64."""
    import torch  # noqa: PLC0415 - takes seconds

    from joulelab.findings.tables import StudyTables  # noqa: PLC0415
    from joulelab.study.plan_file import load_plan  # noqa: PLC0415
    from joulelab.study.runner import run_study  # noqa: PLC0415

    # Half of the time is for importing transformers, for warming up and for idling.
    settings = ["repeats=1", f"infer.seconds={max(0.2, seconds / 18):.2f}", "idle_s=3.0",
                "factors.output_tokens=32", "infer.warmup_steps=1"]  # fmt: skip
    if not torch.cuda.is_available():
        settings += CPU_LANGUAGE
    plan = load_plan("language-gpu", overrides=settings)
    outcome = None
    # The study ends its worker, and keeps the cells that are done.
    timer = threading.Timer(LANGUAGE_STOP_SHARE * seconds, os.kill, (os.getpid(), signal.SIGTERM))
    timer.start()
    try:
        outcome = run_study("language", plan)
    except SystemExit:
        pass
    finally:
        timer.cancel()
    found = StudyTables.read(["language"]).summary
    names = ["model", "phase", "batch_size", "gross_j_per_token", "net_j_per_token",
             "mean_power_w", "duration_s_per_token"]  # fmt: skip
    save({"rows": found[names].to_dict("records")})
    done, planned = found["batch_size"].nunique(), len(plan.factors.batch_size)
    if outcome is not None and outcome.failed:
        save({"failed": f"{outcome.failed} of {outcome.cells} cells"})
    elif done < planned:
        save({"note": f"{done} of {planned} batch sizes in the time"})


def _prediction_errors(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return median and 90th percentile of the relative errors, and the intervals' coverage."""
    found: dict[str, float] = {}
    for what, value, low, high in (
        ("energy", "energy_per_step_j", "energy_low_j", "energy_high_j"),
        ("duration", "seconds_per_step", "seconds_low", "seconds_high"),
    ):
        ratios = [row[value] / row[f"measured_{value}"] for row in rows]
        if ratios:
            errors_pct = 100 * np.abs(np.array(ratios) - 1)
            found[f"{what}_median_pct"] = float(np.median(errors_pct))
            found[f"{what}_p90_pct"] = float(np.percentile(errors_pct, 90))
            inside = [row[low] <= row[f"measured_{value}"] <= row[high] for row in rows]
            found[f"{what}_covered_pct"] = 100 * sum(inside) / len(inside)
    return found


def _work_for(seconds: float) -> None:
    """Multiply matrices on the GPU, or on the CPU without one."""
    import torch  # noqa: PLC0415

    has_gpu = torch.cuda.is_available()
    size = 2048 if has_gpu else 128
    matrix = torch.randn(size, size, device="cuda" if has_gpu else "cpu")
    stop_s = time.monotonic() + seconds
    while time.monotonic() < stop_s:
        for _ in range(10):
            torch.mm(matrix, matrix)
        if has_gpu:
            torch.cuda.synchronize()


def _gpu_pids() -> list[int] | str:
    """List the processes that have a context on the first GPU; why not, if that is unknown."""
    with _nvml():
        try:
            handle = pynvml.nvmlDeviceGetHandleByIndex(0)
            found = pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
        except pynvml.NVMLError as error:
            return str(error)
        return [int(one.pid) for one in found]


@contextlib.contextmanager
def _nvml() -> Iterator[None]:
    pynvml.nvmlInit()
    try:
        yield
    finally:
        pynvml.nvmlShutdown()


def _read_ring(handle: Any, after_us: int) -> list[tuple[float, float]]:
    kind, found = pynvml.nvmlDeviceGetSamples(handle, pynvml.NVML_TOTAL_POWER_SAMPLES, after_us)
    name = {
        pynvml.NVML_VALUE_TYPE_DOUBLE: "dVal",
        pynvml.NVML_VALUE_TYPE_UNSIGNED_INT: "uiVal",
        pynvml.NVML_VALUE_TYPE_UNSIGNED_LONG: "ulVal",
        pynvml.NVML_VALUE_TYPE_UNSIGNED_LONG_LONG: "ullVal",
    }[kind]
    return [(one.timeStamp / 1e6, getattr(one.sampleValue, name) / 1e3) for one in found]


def _follow(
    handle: Any, seconds: float
) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
    """Read the ring and the counter for a while, both on the wall clock."""
    stop = threading.Event()
    readings: list[tuple[float, float]] = []

    def follow_counter() -> None:
        while not stop.wait(COUNTER_PAUSE_S):
            energy_j = pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3
            readings.append((time.time(), energy_j))

    thread = threading.Thread(target=follow_counter)
    thread.start()
    samples: list[tuple[float, float]] = []
    stop_s = time.monotonic() + seconds
    try:
        while time.monotonic() < stop_s:
            time.sleep(RING_PAUSE_S)
            # Timestamps are computed again for each call.
            last_s = samples[-1][0] + SAME_STAMP_US / 1e6 if samples else 0.0
            samples += [one for one in sorted(_read_ring(handle, 0)) if one[0] > last_s]
    finally:
        stop.set()
        thread.join()
    # The ring holds some from before the load began.
    began_s = readings[0][0]
    return [one for one in samples if one[0] >= began_s], readings


def _joulelab(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "joulelab", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=check)


if __name__ == "__main__":
    main(sys.argv[1:])
