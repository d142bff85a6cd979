"""Where each tool runs: a virtual environment of its own, made once, or this interpreter."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.tools import TOOLS, Entry

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENTS = ROOT / ".venv-bench"
EMPTY = "empty"
NO_NETWORK = dict.fromkeys(("http_proxy", "https_proxy", "all_proxy"), "http://127.0.0.1:9")
"""Port 9 of this machine, where nothing listens, so that no tool uses the network."""


@dataclass(frozen=True)
class Place:
    """An interpreter that has a tool.

    Attributes:
        python: The interpreter.
        environment: What is added to its environment.
    """

    python: Path
    environment: Mapping[str, str]

    def run(
        self, name: str, task: str, environment: Mapping[str, str], **settings: Any
    ) -> dict[str, Any]:
        """What :mod:`benchmarks.child` measured.

        Raises:
            RuntimeError: The tool failed, with the end of what it said.
        """
        command = [str(self.python), "-m", "benchmarks.child", name, task, json.dumps(settings)]
        done = subprocess.run(
            command,
            cwd=ROOT,
            env={**environment, **NO_NETWORK, **self.environment},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{name} {task} failed: {done.stderr[-2000:]}")
        result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return result


def prepare() -> None:
    """Makes ``.venv-bench``: an environment for each tool at its pinned version, and an empty one.

    JouleLab is built from the working tree each time.

    Raises:
        subprocess.CalledProcessError: pip or venv failed.
    """
    _environment(EMPTY, [])
    for entry in {entry.distribution: entry for entry in TOOLS.values()}.values():
        wanted = f"{entry.distribution}=={entry.version}" if entry.version else str(ROOT)
        _environment(entry.distribution, [wanted])
    command = [
        str(_python("joulelab")),
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--force-reinstall",
    ]
    subprocess.run([*command, str(ROOT)], check=True)


def places() -> tuple[dict[str, Place], dict[str, str]]:
    """Where each tool runs, and why the others do not."""
    found, missing = {}, {}
    for name, entry in TOOLS.items():
        if _python(entry.distribution).exists():
            found[name] = Place(_python(entry.distribution), {})
        elif name == "joulelab":
            found[name] = Place(Path(sys.executable), {"PYTHONPATH": str(ROOT / "src")})
        elif _has(entry):
            found[name] = Place(Path(sys.executable), {})
        else:
            missing[name] = f"{entry.distribution} is not installed here"
    return found, missing


def size_bytes(distribution: str) -> int | None:
    """What a tool and all that it needs add to an empty environment; ``None`` without its own."""
    directory = ENVIRONMENTS / distribution
    if not directory.is_dir():
        return None
    return _files_bytes(directory) - _files_bytes(ENVIRONMENTS / EMPTY)


def _environment(name: str, requirements: list[str]) -> None:
    made = ENVIRONMENTS / name / ".made"
    if made.exists() and made.read_text() == "\n".join(requirements):
        return
    print(f"making {ENVIRONMENTS.name}/{name}", file=sys.stderr, flush=True)
    subprocess.run([sys.executable, "-m", "venv", "--clear", ENVIRONMENTS / name], check=True)
    if requirements:
        command = [str(_python(name)), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        subprocess.run([*command, *requirements], check=True)
    made.write_text("\n".join(requirements))


def _python(name: str) -> Path:
    return ENVIRONMENTS / name / "bin" / "python"


def _has(entry: Entry) -> bool:
    test = f"import importlib.util as u, sys; sys.exit(u.find_spec({entry.distribution!r}) is None)"
    return subprocess.run([sys.executable, "-c", test], check=False).returncode == 0


def _files_bytes(directory: Path) -> int:
    return sum(
        os.lstat(os.path.join(folder, file)).st_size  # noqa: PTH118
        for folder, _, files in os.walk(directory)
        for file in files
    )
