"""Effects of factors that are known: ``python -m benchmarks.planted_effects``.

Studies of three factors at two levels, two models and three repeats really run, on a simulated
machine whose power depends on the factors and with models whose speed does. Steps are paced: where
computing takes less time than planned, a model sleeps. Power and pace of each run scatter by 2 and
1 %. An effect counts as found if it is significant, and as claimed wrongly if nothing was planted.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import time
import zlib
from collections import Counter
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

import pandas as pd
import torch
from torch import nn

from joulelab.findings.all import analyze
from joulelab.findings.schema import records
from joulelab.findings.tables import StudyTables
from joulelab.sensors.simulated import SimulatedSensor, SimulatedSource, Waveform
from joulelab.study.plan import Plan
from joulelab.study.runner import run_study

RESULT = Path(__file__).parent / "results" / "planted_effects.md"
FACTORS = {
    "precision": ["fp32", "bf16"],
    "memory_format": ["contiguous", "channels_last"],
    "optimizer": ["sgd", "adam"],
}
MODELS = ("narrow", "wide")
IDLE_W, ACTIVE_W = 100.0, 200.0
POWER_SCATTER, PACE_SCATTER = 0.02, 0.01
PACE_S = 0.02


def power_w(model: str, precision: str, optimizer: str) -> float:
    """Power of a setting: bf16 saves, but less in the wide model, and adam needs more."""
    less = {"narrow": 0.7, "wide": 0.9}[model] if precision == "bf16" else 1.0
    more = 1.2 if optimizer == "adam" else 1.0
    return ACTIVE_W * less * more


def pace(precision: str) -> float:
    """Time of a step, relative to fp32."""
    return 0.8 if precision == "bf16" else 1.0


def sensor() -> SimulatedSensor:
    """Open the sensor of the run that this recorder records; of idle power elsewhere."""
    try:
        run = Path(json.loads(sys.argv[1])["directory"])
    except (IndexError, ValueError, TypeError, KeyError):
        run = Path()
    words = run.name.split("-")
    active_w = 0.0
    if model := next((name for name in MODELS if name in words), ""):
        precision, optimizer = (
            ("bf16" if "bf16" in words else "fp32"),
            ("adam" if "adam" in words else "sgd"),
        )
        noise = random.Random(zlib.crc32("/".join(run.parts[-3:]).encode()))
        scatter = math.exp(noise.gauss(0, POWER_SCATTER))
        active_w = power_w(model, precision, optimizer) * scatter
    return SimulatedSensor(
        SimulatedSource(component="gpu:0", waveform=Waveform.constant(IDLE_W + active_w))
    )


class Paced(nn.Module):
    """A linear model that takes a known time for each step."""

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__()
        torch.set_num_threads(1)  # Threads that wait for each other cannot keep the pace.
        self.model = nn.Sequential(nn.Flatten(), nn.Linear(in_channels * 1024, num_classes))
        self.pace_s = PACE_S * math.exp(random.SystemRandom().gauss(0, PACE_SCATTER))
        self.due_s = 0.0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        step_s = self.pace_s * pace("bf16" if torch.is_autocast_enabled("cpu") else "fp32")
        now_s = time.monotonic()
        # What is late is caught up with, unless it belongs to another phase.
        due_s = self.due_s + step_s if now_s - self.due_s < 10 * step_s else now_s + step_s
        time.sleep(max(0.0, due_s - now_s))
        self.due_s = due_s
        scores: torch.Tensor = self.model(images)
        return scores


def narrow(num_classes: int, in_channels: int) -> nn.Module:
    return Paced(num_classes, in_channels)


wide = narrow


def truth(row: dict[str, Any]) -> float:
    """Return the planted effect or interaction of a row as a logarithm."""

    def value(**levels: str) -> float:
        step = pace(levels["precision"])
        net_w = power_w(levels["model"], levels["precision"], levels["optimizer"])
        power = {"time": 1.0, "net": net_w, "gross": IDLE_W + net_w}[row["quantity"]]
        return math.log(step * power)

    def mean_change(**fixed: str) -> float:
        """Average a factor's effect over the levels of everything else."""
        every: dict[str, list[str]] = {"model": list(MODELS), **FACTORS}
        others = {name: levels for name, levels in every.items() if name != row["factor"]}
        others |= {name: [level] for name, level in fixed.items()}
        return fmean(
            value(**{row["factor"]: row["level"]}, **named)
            - value(**{row["factor"]: row["reference"]}, **named)
            for levels in product(*others.values())
            for named in [dict(zip(others, levels, strict=True))]
        )

    if pd.isna(row["other"]):
        return mean_change()
    here, there = (row[name].rpartition(":")[2] for name in ("other_level", "other_reference"))
    return mean_change(**{row["other"]: here}) - mean_change(**{row["other"]: there})


def run_seed(directory: Path, repeats: int) -> list[dict[str, Any]]:
    """Run a study, and return its effects on time and energy, each with what was planted."""
    module = "benchmarks.planted_effects"
    plan = Plan.model_validate({
        "name": directory.name, "repeats": repeats, "idle_s": 0.5, "sensors": [f"{module}:sensor"],
        "seed": int(directory.name.partition("-")[2]),
        "models": [f"{module}:{name}" for name in MODELS],
        "data": {"name": "synthetic", "train_count": 640, "test_count": 640},
        "factors": {"batch_size": [16], **FACTORS},
        "train": {"epochs": 1, "warmup_steps": 2}, "infer": {"passes": 1, "warmup_steps": 2},
    })  # fmt: skip
    outcome = run_study(directory, plan)
    if outcome.failed:
        sys.exit(f"{outcome.failed} runs failed; see {directory}/report.html")
    rows = records(analyze(StudyTables.read([directory])).factor_effects)
    return [row | {"truth": truth(row)} for row in rows if row["quantity"] != "accuracy"]


def count(rows: list[dict[str, Any]]) -> Counter[str]:
    """Count what was found, what was not, and what intervals contain."""
    found: Counter[str] = Counter()
    for row in rows:
        kind = "effect" if pd.isna(row["other"]) else "interaction"
        kind = kind if abs(row["truth"]) > 1e-9 else "null"
        found[kind] += 1
        found[f"{kind} claimed"] += bool(row["shown"])
        found[f"{kind} covered"] += row["low"] <= math.exp(row["truth"]) <= row["high"]
        right = (row["estimate"] > 1) == (row["truth"] > 0)
        found["wrong sign"] += kind != "null" and bool(row["shown"]) and not right
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path, help="where the studies are written")
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, help=f"Markdown file, for example {RESULT.name}")
    chosen = parser.parse_args()
    total: Counter[str] = Counter()
    for seed in range(chosen.seeds):
        found = count(run_seed(chosen.directory / f"seed-{seed}", chosen.repeats))
        found["studies"] = 1
        found["studies with a wrong claim"] = int(found["null claimed"] > 0)
        total += found
        print(dict(found), flush=True)
    text = table(total)
    print(text)
    if chosen.out:
        command = f"`python -m benchmarks.planted_effects studies --seeds {chosen.seeds}`"
        about = f"{command}, whose docstring states what was planted and how it is counted."
        chosen.out.write_text(f"# Effects of factors that are known\n\n{about}\n\n{text}\n")


def table(total: Counter[str]) -> str:
    """Write the counts of all studies."""
    kinds = {"effect": "effect", "interaction": "interaction", "null": "nothing"}
    lines = [
        "| planted | tested | significant | interval contains the truth |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {name} | {total[kind]} | {total[f'{kind} claimed']} | {total[f'{kind} covered']} |"
        for kind, name in kinds.items()
    ]
    wrong = total["studies with a wrong claim"]
    lines += [
        "",
        f"Of {total['studies']} studies, {wrong} claim something that was not planted; "
        f"{total['wrong sign']} effects have the wrong sign.",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
