"""Format the results of ``benchmarks/on_gpu.sh`` as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from joulelab.format import ABSENT, duration, number, quantity

Result = Mapping[str, Any]


def markdown(report: Mapping[str, Any]) -> str:
    """Return the page of a report."""
    lines = [f"# Checks on {report['about']['GPU']}", ""]
    lines += [f"- {name}: {text}" for name, text in report["about"].items()]
    lines += ["", *_table(["check", "state", "time", "result"], _summaries(report)), ""]
    for check in report["checks"]:
        if check["name"] in _DETAILS and check["result"].get("rows"):
            details = _DETAILS[check["name"]](check["result"])
            lines += [f"## {check['name']}", "", *details, ""]
    return "\n".join(lines)


def _summaries(report: Mapping[str, Any]) -> list[list[str]]:
    rows = []
    for check in report["checks"]:
        texts = [check["reason"]]
        if check["state"] == "passed":
            texts.append(_SUMMARIES[check["name"]](check["result"]))
        text = "; ".join(filter(None, texts))
        rows.append([check["name"], check["state"], duration(check["seconds"]), text])
    return rows


def _sensors(result: Result) -> str:
    return ", ".join(dict.fromkeys(one["source"] for one in result["sensors"]))


def _processes(result: Result) -> str:
    own = "lists" if result["lists_own_pid"] else "does not list"
    return f"the driver {own} this process; GPU's own clock: {_yes(result['device_window'])}"


def _ring(result: Result) -> str:
    return "; ".join(
        f"{row['load']}: median {_signed(row['median_pct'])}, "
        f"{_signed(row['least_pct'])} to {_signed(row['most_pct'])}"
        for row in result["rows"]
    )


def _windows(result: Result) -> str:
    medians = [row["median_pct"] for row in result["rows"] if row["median_pct"] is not None]
    return f"median error of each length up to {number(max(medians))} %" if medians else ABSENT


def _slowdown(result: Result) -> str:
    texts = [f"{name}: {_ratio(row)}" for name, row in result["ratios"].items()]
    costs = result.get("costs_us", {})
    texts += [f"{name}: {number(cost_us)} µs" for name, cost_us in costs.items()]
    return "; ".join(texts)


def _torchrun(result: Result) -> str:
    ranks = result["ranks"]
    return f"{len(ranks)} ranks, one recorder; " + ", ".join(
        f"{number(one['gross_j'])} J in {duration(one['duration_s'])}" for one in ranks
    )


def _doctor(result: Result) -> str:
    return f"exit code {result['exit_code']}"


def _calibrate(result: Result) -> str:
    return " ".join(result["output"].splitlines()[:2])


def _predictions(result: Result) -> str:
    return "; ".join(
        f"{what}: median {number(result[f'{what}_median_pct'])} %, "
        f"p90 {number(result[f'{what}_p90_pct'])} %, "
        f"{number(result[f'{what}_covered_pct'], 2)} % within the interval"
        for what in ("energy", "duration")
    )


def _language(result: Result) -> str:
    phases = dict.fromkeys(row["phase"] for row in result["rows"])
    least_j = {
        phase: min(row["gross_j_per_token"] for row in result["rows"] if row["phase"] == phase)
        for phase in phases
    }
    texts = [f"{phase} from {quantity(energy_j, 'J')}" for phase, energy_j in least_j.items()]
    return f"gross energy per token: {', '.join(texts)}"


_SUMMARIES: Mapping[str, Callable[[Result], str]] = {
    "sensors": _sensors,
    "processes": _processes,
    "ring": _ring,
    "windows": _windows,
    "slowdown": _slowdown,
    "torchrun": _torchrun,
    "doctor": _doctor,
    "calibrate": _calibrate,
    "predictions": _predictions,
    "language": _language,
}


def _window_rows(result: Result) -> list[str]:
    rows = [
        [
            row["case"],
            duration(row["window_s"]),
            f"{row['given']} of {row['count']}",
            f"{number(row['median_pct'])} %",
            f"{number(row['p90_pct'])} %",
            _signed(row["bias_pct"]),
        ]
        for row in result["rows"]
    ]
    return _table(["load", "window", "with energy", "median", "p90", "mean"], rows)


def _prediction_rows(result: Result) -> list[str]:
    rows = []
    for row in result["rows"]:
        ratios = [
            row[name] / row[f"measured_{name}"] - 1
            for name in ("energy_per_step_j", "seconds_per_step")
        ]
        case = [row["model"], row["phase"], str(row["batch_size"])]
        measured = duration(row["measured_seconds_per_step"])
        energy = f"{number(row['measured_energy_per_step_j'])} J"
        rows.append([*case, energy, measured, *(_signed(100 * ratio) for ratio in ratios)])
    heads = ["model", "phase", "batch", "energy of a step", "time", "energy error", "time error"]
    return _table(heads, rows)


def _language_rows(result: Result) -> list[str]:
    rows = [
        [
            row["model"],
            row["phase"],
            str(row["batch_size"]),
            *(quantity(row[f"{kind}_j_per_token"], "J") for kind in ("gross", "net")),
            quantity(row["mean_power_w"], "W"),
            quantity(1 / row["duration_s_per_token"], ""),
        ]
        for row in result["rows"]
    ]
    heads = ["model", "phase", "batch", "gross per token", "net per token", "mean power",
             "tokens per second"]  # fmt: skip
    return _table(heads, rows)


_DETAILS: Mapping[str, Callable[[Result], list[str]]] = {
    "windows": _window_rows,
    "predictions": _prediction_rows,
    "language": _language_rows,
}


def _ratio(row: Mapping[str, float]) -> str:
    return f"{row['ratio']:.4f} ({row['low']:.4f}–{row['high']:.4f})"


def _signed(value: float | None) -> str:
    return ABSENT if value is None else f"{value:+.2f} %"


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    if not rows:
        return []
    lines = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(cell.replace("|", "/") for cell in line) + " |" for line in lines]
