"""Build the stand-in for NVML and configure what it simulates. Needs gcc."""

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
    """How the stand-in observes its waveform; the defaults add no error.

    Attributes:
        gain: Reported over true power.
        noise_w: Standard deviation of independent noise on each power value, W.
        update_phase_s: Phase of the updates each 100 ms on CLOCK_MONOTONIC, s.
        ring_phase_s: The same for the updates each 20 ms, s.
        stamp_delay_s: Delay of the ring's timestamps after the end of their windows, s.
        stamp_jitter_s: Standard deviation of these timestamps about a grid, cut at 1.8 of it, s.
        busy: Calls take their time on the processor; otherwise asleep.
    """

    gain: float = 1.0
    noise_w: float = 0.0
    update_phase_s: float = 0.037
    ring_phase_s: float = 0.0071
    stamp_delay_s: float = 0.0
    stamp_jitter_s: float = 0.0
    busy: bool = True


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


def write(path: Path, waveform: Waveform, sensor: Sensor | None = None) -> Path:
    """Write the file that the stand-in reads when it is initialised, and return its path."""
    sensor = sensor or Sensor()
    settings = [f"{f.name} {float(getattr(sensor, f.name))!r}" for f in fields(sensor)]
    points = [f"point {t_s!r} {power_w!r}" for t_s, power_w in waveform.points]
    path.write_text("\n".join([*settings, *points, ""]))
    return path


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
