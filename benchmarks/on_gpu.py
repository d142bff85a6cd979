"""Run checks on a machine with an NVIDIA GPU, each within a time limit of its own.

``benchmarks/on_gpu.sh`` runs this module. Every check is a process of its own
(:mod:`benchmarks.on_gpu_checks`), so one that fails or hangs does not stop the others. Exit code: 0
if all passed or were skipped, 1 if one failed or did not run, 2 if nothing could run.

Until :func:`main` has found the packages, this module needs only the standard library.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import importlib.util
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
CORE = {
    "click": "click",
    "msgspec": "msgspec",
    "numpy": "numpy",
    "psutil": "psutil",
    "pynvml": "nvidia-ml-py",
    "rich": "rich",
    "tomli_w": "tomli-w",
    "torch": "torch",
}
"""Module and distribution of each package without which nothing can run."""
PREDICTION = {
    "pandas": "pandas",
    "pyarrow": "pyarrow",
    "pydantic": "pydantic pydantic-core annotated-types typing-inspection",
    "scipy": "scipy",
}
STUDY = {**PREDICTION, "transformers": "transformers tokenizers huggingface-hub safetensors"}
DEFAULT_SECONDS = 470.0
START_S = 8.0
"""Time for starting a check: importing PyTorch and starting CUDA."""
MOST_START_S = 30.0
KILL_S = 5.0


@dataclass(frozen=True)
class Check:
    """A check and its share of the time."""

    name: str
    title: str
    seconds: float
    packages: Mapping[str, str] = field(default_factory=dict)


CHECKS = (
    Check("sensors", "sensors of this machine", 5),
    Check("processes", "process lists and CUDA contexts", 10),
    Check("ring", "buffered power samples against the energy counter", 30),
    Check("windows", "windows against the energy counter", 80),
    Check("slowdown", "slow-down by spans and by recording", 60),
    Check("torchrun", "two ranks under torchrun", 15),
    Check("doctor", "joulelab doctor --check", 120),
    Check("calibrate", "joulelab hardware calibrate", 60, PREDICTION),
    Check("predictions", "predictions against measured steps", 80, PREDICTION),
    Check("language", "joules per token of a language model", 50, STUDY),
)
"""In order; predictions use the profile that the calibration wrote."""


@dataclass
class Outcome:
    """What became of a check: ``passed``, ``failed``, ``skipped`` or ``not run``."""

    name: str
    state: str
    seconds: float = 0.0
    reason: str = ""
    result: Mapping[str, Any] = field(default_factory=dict)


def main(arguments: Sequence[str]) -> int:
    """Run the checks, write the results and print the table; return the exit code."""
    begin_s = time.monotonic()
    options = parse(arguments)
    if missing := _missing(CORE):
        _say(_how_to_bring(missing))
        return 2
    try:
        machine = about()
    except RuntimeError as error:
        _say(str(error))
        return 2
    chosen = [check for check in CHECKS if not options.only or check.name in options.only]
    measuring_s = max(0.0, options.seconds - len(chosen) * START_S)
    scale = measuring_s / sum(check.seconds for check in chosen)
    outcomes = []
    with contextlib.ExitStack() as stack:
        folder = options.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        for check in chosen:
            left_s = options.seconds - (time.monotonic() - begin_s)
            outcome = run(check, scale * check.seconds, left_s, folder.resolve())
            outcomes.append(outcome)
            _say(f"{check.name}: {outcome.state}{outcome.reason and ': ' + outcome.reason}")
    report = {"about": machine, "checks": [asdict(outcome) for outcome in outcomes]}
    path = write(report, options.out)
    from benchmarks.on_gpu_table import markdown  # noqa: PLC0415 - needs the packages

    text = markdown(report)
    path.with_suffix(".md").write_text(text)
    print(text)
    _say(f"results are in {path}")
    return 0 if all(outcome.state in ("passed", "skipped") for outcome in outcomes) else 1


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line."""
    names = [check.name for check in CHECKS]
    parser = argparse.ArgumentParser(
        prog="benchmarks/on_gpu.sh", description="Check JouleLab on a machine with an NVIDIA GPU."
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=DEFAULT_SECONDS,
        help=f"time for all checks; default {DEFAULT_SECONDS:.0f}",
    )
    out = Path(os.environ["OUT"]) if os.environ.get("OUT") else RESULTS
    parser.add_argument("--out", type=Path, default=out, help=f"folder of results; default {out}")
    parser.add_argument(
        "--keep",
        type=Path,
        metavar="DIRECTORY",
        help="keep what the checks wrote here: profile, study, recordings of the power",
    )
    parser.add_argument(
        "--only",
        type=lambda text: text.split(","),
        default=[],
        metavar="CHECK,...",
        help=f"run only these: {', '.join(names)}",
    )
    options = parser.parse_args(arguments)
    if unknown := set(options.only) - set(names):
        parser.error(f"there is no check {', '.join(sorted(unknown))}")
    if options.seconds <= 0:
        parser.error("--seconds must be positive")
    return options


def run(check: Check, seconds: float, left_s: float, folder: Path) -> Outcome:
    """Run one check for about ``seconds`` and stop it if it takes much longer.

    What it had saved until then is in the outcome.
    """
    if left_s < seconds / 2:
        return Outcome(check.name, "not run", reason="no time was left")
    if missing := _missing(check.packages):
        return Outcome(check.name, "not run", reason=_how_to_bring(missing))
    saved = folder / f"{check.name}.json"
    command = [sys.executable, "-m", "benchmarks.on_gpu_checks", check.name, str(seconds)]
    begin_s = time.monotonic()
    with (folder / f"{check.name}.log").open("w+") as log:
        process = subprocess.Popen(
            [*command, str(saved)],
            cwd=ROOT,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        limit_s = min(1.5 * seconds + MOST_START_S, max(left_s, seconds + START_S))
        reason = ""
        try:
            code = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            reason = f"it took longer than {limit_s:.0f} s"
            code = -1
        finally:
            _end(process)
        log.seek(0)
        output = log.read()
    result = json.loads(saved.read_text()) if saved.exists() else {}
    note = result.pop("note", "")
    if code and not reason:
        reason = (output.strip().splitlines() or [f"exit code {code}"])[-1]
    state, reason = ("failed", reason) if code else ("passed", note)
    if skipped := result.pop("skipped", ""):
        state, reason = "skipped", skipped
    if failed := result.pop("failed", ""):
        state, reason = "failed", failed
    if state == "failed":
        result["log"] = output[-4000:]
    return Outcome(check.name, state, time.monotonic() - begin_s, reason, result)


def about() -> dict[str, str]:
    """Describe the machine and the software.

    Raises:
        RuntimeError: There is no GPU or no driver.
    """
    import pynvml  # noqa: PLC0415 - a package that may be missing
    import torch  # noqa: PLC0415

    git = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    try:
        pynvml.nvmlInit()
        gpu = pynvml.nvmlDeviceGetName(pynvml.nvmlDeviceGetHandleByIndex(0))
        driver = pynvml.nvmlSystemGetDriverVersion()
    except pynvml.NVMLError as error:
        raise RuntimeError(f"there is no NVIDIA GPU or no driver for it: {error}") from error
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "commit": _output(git) or "unknown",
        "GPU": str(gpu),
        "driver": str(driver),
        "machine": f"{os.cpu_count()} threads, Linux {platform.release()}",
        "Python": platform.python_version(),
        "torch": f"{torch.__version__}, CUDA {'on' if torch.cuda.is_available() else 'off'}",
    }


def write(report: Mapping[str, Any], folder: Path) -> Path:
    """Write the results as JSON, without NaN, and return the path."""
    from joulelab.format import finite_or_none, slug  # noqa: PLC0415 - needs the packages
    from joulelab.storage import write_whole  # noqa: PLC0415

    folder.mkdir(parents=True, exist_ok=True)
    name = f"{report['about']['date']}-on-gpu-{slug(report['about']['GPU']).lower()}.json"
    text = json.dumps(finite_or_none(report), indent=1)
    write_whole(folder / name, f"{text}\n".encode())
    return folder / name


def _missing(packages: Mapping[str, str]) -> list[str]:
    return [name for module, name in packages.items() if importlib.util.find_spec(module) is None]


def _how_to_bring(missing: Sequence[str]) -> str:
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    names = " ".join(missing)
    return (
        f"missing packages: {names}; where there is a network, run `python3 -m pip download "
        f"--only-binary=:all: --no-deps --python-version {version} -d wheels {names}`, and set "
        "WHEELS=wheels here"
    )


def _end(process: subprocess.Popen[Any]) -> None:
    """End a check and everything that it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(KILL_S)
        except ProcessLookupError:
            break
        except subprocess.TimeoutExpired:
            continue
    process.wait()


def _output(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout.strip()


def _say(text: str) -> None:
    print(f"on_gpu: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
