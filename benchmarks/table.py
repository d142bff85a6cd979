"""Format a comparison of tools as Markdown: a table, JouleLab's own measurements, and notes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.tools import TOOLS
from joulelab.format import duration


def markdown(result: Mapping[str, Any]) -> str:
    """Return the page of a result of ``benchmarks.compare_tools``."""
    names = list(result["tools"])
    header = ["", *(_title(name, result["tools"][name]) for name in names)]
    rows = [*_error_rows(result["errors"], names), *_cost_rows(result["costs"], names)]
    about = [f"- {what}: {text}" for what, text in result["about"].items()]
    return "\n".join(
        [
            f"# Bench of {result['date']}, {result['gpu']}",
            "",
            *about,
            "",
            _table([header, *rows]),
            "",
            *_alone(result),
            "## Notes",
            "",
            *(f"- {note}" for note in _notes(result, names)),
            "",
        ]
    )


def _title(name: str, version: str) -> str:
    return f"{TOOLS[name].label} {version}"


def _error_rows(errors: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[list[str]]:
    found = {(row["case"], row["window_s"], row["tool"]): row for row in errors}
    kinds = dict.fromkeys((row["case"], row["window_s"]) for row in errors)
    return [
        [
            f"error, {case}, {duration(window_s)}",
            *(_error(found.get((case, window_s, name))) for name in names),
        ]
        for case, window_s in kinds
    ]


def _error(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return "not run"
    if row["median_pct"] is None:
        return "no energy"
    if row["count"] == 1:
        text = f"{row['bias_pct']:+.2f} %"
    else:
        text = f"{row['median_pct']:.2f} / {row['p90_pct']:.2f} / {row['bias_pct']:+.2f} %"
    if row["zeros"]:
        text += f", {row['zeros']} of {row['count']} zero"
    if row["given"] < row["count"]:
        text += f", {row['count'] - row['given']} of {row['count']} without energy"
    return text


def _cost_rows(costs: Mapping[str, Mapping[str, Any]], names: Sequence[str]) -> list[list[str]]:
    def row(title: str, cell: Any) -> list[str]:
        return [title, *(cell(costs[name]) if name in costs else "not run" for name in names)]

    return [
        row(
            "open + close a window: median (p90)",
            lambda c: f"{duration(c['window']['median_s'])} ({duration(c['window']['p90_s'])})",
        ),
        row("processor time of that", lambda c: duration(c["window"]["processor_s"])),
        row(
            "background processor time, of one core",
            lambda c: f"{100 * c['background']['cpu_share']:.3f} %",
        ),
        row("memory added to the program", lambda c: _bytes(c["background"]["own_rss_bytes"])),
        row("memory of its own processes", lambda c: _bytes(c["background"]["process_rss_bytes"])),
        row("import", lambda c: duration(c["import_s"])),
        row("import and start", lambda c: duration(c["window"]["ready_s"])),
        row("installed size", lambda c: _bytes(c["size_bytes"], "not measured")),
    ]


def _alone(result: Mapping[str, Any]) -> list[str]:
    lines = ["## JouleLab alone", ""]
    if slow := result.get("slowdown"):
        lines += [
            f"Training LeNet, batch {slow['batch_size']}, on {slow['device']} "
            f"(torch {slow['torch']}): {duration(slow['step_s'])} a step, {slow['rounds']} rounds "
            f"of interleaved blocks of {slow['steps']} steps. Time relative to no tool, "
            "and of slices with spans relative to adjacent slices without; medians and 95 % "
            "intervals:",
            "",
            _table(
                [
                    ["condition", "ratio", "interval"],
                    *(
                        [name, f"{r['ratio']:.4f}", f"{r['low']:.4f} to {r['high']:.4f}"]
                        for name, r in slow["ratios"].items()
                    ),
                ]
            ),
            "",
        ]
    return lines if len(lines) > 2 else []


def _notes(result: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    return [
        "Errors: median of the size / 90th percentile of the size / signed mean, of one window's "
        "GPU energy against the truth between the return of the opening call and the closing "
        "call. For a single window: its signed error.",
        "Memory added to the program is what importing and opening the tool adds to an interpreter "
        "that has imported nothing else; JouleLab's is without NumPy, which is imported with the "
        "first energy. Import time is relative to a bare interpreter. Installed size is relative "
        "to an empty virtual environment, with all dependencies of the tool.",
        *(f"{TOOLS[name].label}: {TOOLS[name].settings}" for name in names),
        *result["notes"],
        *(f"Not run: {what}: {why}." for what, why in result["missing"].items()),
    ]


def _table(rows: Sequence[Sequence[str]]) -> str:
    header, *body = rows
    lines = [header, ["---"] * len(header), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _bytes(value: float | None, absent: str = "none") -> str:
    return absent if value is None else f"{value / 1e6:.1f} MB"
