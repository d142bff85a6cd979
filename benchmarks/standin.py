"""Build the stand-in for NVML, configure what it simulates, and see what was set. Needs gcc."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from joulelab.sensors.simulated import Waveform

SOURCE = Path(__file__).parent / "nvml_standin" / "nvml_standin.c"
LIBRARY = "libnvidia-ml.so.1"
FLAGS = ("-std=c11", "-D_GNU_SOURCE", "-O2", "-Wall", "-Wextra", "-Werror")
SHARED = ("-fPIC", "-shared", "-fvisibility=hidden", f"-Wl,-soname,{LIBRARY}")


@dataclass(frozen=True, kw_only=True)
class Sensor:
    """How the stand-in observes its waveform; the defaults add no error."""

    gain: float = 1.0  # Reported over true power.
    noise_w: float = 0.0  # Standard deviation of independent noise on each power value, W.
    update_phase_s: float = 0.037  # Phase of the updates each 100 ms on CLOCK_MONOTONIC, s.
    ring_phase_s: float = 0.0071  # The same for the updates each 20 ms, s.
    stamp_delay_s: float = 0.0  # Delay of the ring's timestamps after the end of their windows, s.
    # Standard deviation of these timestamps about a grid, cut at 1.8 of it, s.
    stamp_jitter_s: float = 0.0
    busy: bool = True  # Calls take their time on the processor; otherwise asleep.
    gpus: int = 1  # Number of equal GPUs.


@dataclass(frozen=True, kw_only=True)
class Controls:
    """What the stand-in allows to be set, with the constraints of an H100: 200 to 700 W."""

    # Limits and clocks can be set; otherwise they are refused as without root.
    may_set: bool = False
    has_controls: bool = True  # They are supported.
    limit_w: float = 700.0  # The power limit before anything is set, W.
    idle_w: float = 60.0  # The part of the power that clocks do not change, W.


ROUGH = Sensor(noise_w=3.0, stamp_delay_s=0.0025, stamp_jitter_s=0.005)
"""The timestamps of an H100 80GB HBM3 with driver 580.159: 0 to 5 ms late for a known on/off
load; 1,736 distances of about 20 ms between timestamps had a standard deviation of 7 ms, which
independent jitter of 5 ms about a regular grid gives. The noise of 3 W is assumed."""

NVIDIA_SMI = """#!/bin/sh
# CodeCarbon searches for a GPU only if `nvidia-smi --help` succeeds; this does only that.
[ "$1" = "--help" ] && exit 0
echo "nvidia-smi: a stand-in that only answers --help" >&2
exit 1
"""


def build(directory: Path) -> Path:
    """Compile the library and an ``nvidia-smi`` into a directory, and return it.

    Raises:
        subprocess.CalledProcessError: The compiler failed.
        FileNotFoundError: There is no gcc.
    """
    directory.mkdir(parents=True, exist_ok=True)
    library = directory / LIBRARY
    command = ["gcc", *FLAGS, *SHARED, str(SOURCE), "-o", str(library), "-lm", "-lpthread"]
    subprocess.run(command, check=True)
    program = directory / "nvidia-smi"
    program.write_text(NVIDIA_SMI)
    program.chmod(0o755)
    return directory


def write(
    path: Path,
    waveform: Waveform,
    sensor: Sensor | None = None,
    controls: Controls | None = None,
) -> Path:
    """Write the file that the stand-in reads when it is initialised, and return its path."""
    settings = [
        f"{f.name} {float(getattr(given, f.name))!r}"
        for given in (sensor or Sensor(), controls or Controls())
        for f in fields(given)
    ]
    points = [f"point {t_s!r} {power_w!r}" for t_s, power_w in waveform.points]
    path.write_text("\n".join([*settings, *points, ""]))
    return path


@dataclass(frozen=True)
class Change:
    """What was set, or asked for, on the stand-in."""

    limit_w: float
    clock_mhz: int
    memory_mhz: int


def changes(waveform: Path) -> list[Change]:
    """Return what was set so far, by any process, the oldest first."""
    return [_change(line) for line in _lines(waveform, ".controls")]


def requests(waveform: Path) -> list[Change]:
    """Return what was asked for so far, by any process, also if it was refused."""
    return [_change(line) for line in _lines(waveform, ".requests")]


def _lines(waveform: Path, suffix: str) -> list[str]:
    path = Path(f"{waveform}{suffix}")
    return path.read_text().splitlines() if path.exists() else []


def _change(line: str) -> Change:
    _, limit_mw, clock_mhz, memory_mhz = line.split()
    return Change(int(limit_mw) / 1e3, int(clock_mhz), int(memory_mhz))


def environment(
    library: Path, waveform: Path, base: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Return the environment in which every NVML user of a process sees the stand-in.

    Args:
        library: Directory from :func:`build`.
        waveform: File from :func:`write`.
        base: Other variables; ``None`` for those of this process.
    """
    environ = dict(os.environ if base is None else base)
    environ.pop("CUDA_VISIBLE_DEVICES", None)
    return environ | {
        "PATH": f"{library}{os.pathsep}{environ.get('PATH', os.defpath)}",
        "LD_LIBRARY_PATH": str(library),
        "JOULELAB_STANDIN": str(waveform),
    }
