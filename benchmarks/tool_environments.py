"""Run each tool in its own virtual environment, created once, or in this interpreter."""

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
"""Proxy settings that block the network: nothing listens on port 9 of this machine."""


@dataclass(frozen=True)
class ToolEnvironment:
    """An interpreter that has a tool installed."""

    python: Path  # The interpreter.
    variables: Mapping[str, str]  # Additional environment variables.

    def run(
        self, name: str, task: str, environment: Mapping[str, str], **settings: Any
    ) -> dict[str, Any]:
        """Run :mod:`benchmarks.measure_tool` and return its result.

        Raises:
            RuntimeError: The tool failed; the message has the end of its output.
        """
        arguments = [name, task, json.dumps(settings)]
        command = [str(self.python), "-m", "benchmarks.measure_tool", *arguments]
        done = subprocess.run(
            command,
            cwd=ROOT,
            env={**environment, **NO_NETWORK, **self.variables},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{name} {task} failed: {done.stderr[-2000:]}")
        result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return result


def create_environments() -> None:
    """Create ``.venv-bench``: an environment per tool at its pinned version, and an empty one.

    JouleLab is installed from the working tree each time.

    Raises:
        subprocess.CalledProcessError: pip or venv failed.
    """
    _create(EMPTY, [])
    for entry in {entry.distribution: entry for entry in TOOLS.values()}.values():
        wanted = f"{entry.distribution}=={entry.version}" if entry.version else str(ROOT)
        _create(entry.distribution, [wanted])
    pip = [str(_python("joulelab")), "-m", "pip", "install", "-q", "--no-deps", "--force-reinstall"]
    subprocess.run([*pip, str(ROOT)], check=True)


def find_environments() -> tuple[dict[str, ToolEnvironment], dict[str, str]]:
    """Return the environment of each tool, and the reason for each tool that has none."""
    found, missing = {}, {}
    for name, entry in TOOLS.items():
        if _python(entry.distribution).exists():
            found[name] = ToolEnvironment(_python(entry.distribution), {})
        elif name == "joulelab":
            found[name] = ToolEnvironment(Path(sys.executable), {"PYTHONPATH": str(ROOT / "src")})
        elif _is_installed(entry):
            found[name] = ToolEnvironment(Path(sys.executable), {})
        else:
            missing[name] = f"{entry.distribution} is not installed"
    return found, missing


def size_bytes(distribution: str) -> int | None:
    """Return what a tool with its dependencies adds to an empty environment, if it has its own."""
    directory = ENVIRONMENTS / distribution
    if not directory.is_dir():
        return None
    return _files_bytes(directory) - _files_bytes(ENVIRONMENTS / EMPTY)


def _create(name: str, requirements: list[str]) -> None:
    made = ENVIRONMENTS / name / ".made"
    if made.exists() and made.read_text() == "\n".join(requirements):
        return
    print(f"creating {ENVIRONMENTS.name}/{name}", file=sys.stderr, flush=True)
    subprocess.run([sys.executable, "-m", "venv", "--clear", ENVIRONMENTS / name], check=True)
    if requirements:
        command = [str(_python(name)), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        subprocess.run([*command, *requirements], check=True)
    made.write_text("\n".join(requirements))


def _python(name: str) -> Path:
    return ENVIRONMENTS / name / "bin" / "python"


def _is_installed(entry: Entry) -> bool:
    test = f"import importlib.util as u, sys; sys.exit(u.find_spec({entry.distribution!r}) is None)"
    return subprocess.run([sys.executable, "-c", test], check=False).returncode == 0


def _files_bytes(directory: Path) -> int:
    return sum(
        os.lstat(os.path.join(folder, file)).st_size  # noqa: PTH118
        for folder, _, files in os.walk(directory)
        for file in files
    )
