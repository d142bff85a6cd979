"""A dashboard for Grafana (version 10 and newer) with the metrics of `joulelab export`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

MACHINE = 'instance=~"$instance"'
"""Every query is of the machines that are chosen at the top of the dashboard."""
RUN = f'{MACHINE}, run=~"$run"'
SELECTORS = {
    "{MACHINE}": f"{{{MACHINE}}}",
    "{PART}": f'{{{MACHINE}, role="part"}}',
    "{ENCLOSING}": f'{{{MACHINE}, role="enclosing"}}',
    "{RUN}": f"{{{RUN}}}",
    "{RUN_PART}": f'{{{RUN}, role="part"}}',
}
"""Placeholders of the queries below, and the selectors that replace them."""
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
COLUMNS, HEIGHT = 24, 8


def dashboard_json() -> str:
    """Return the dashboard as the JSON that Grafana imports."""
    return json.dumps(dashboard(), indent=2)


def dashboard() -> dict[str, Any]:
    """Return the dashboard in Grafana's model."""
    panels, column, row = _panels(), 0, 0
    for number, panel in enumerate(panels, 1):
        width = panel["gridPos"]["w"]
        if column + width > COLUMNS:
            column, row = 0, row + HEIGHT
        panel["id"] = number
        panel["gridPos"] |= {"x": column, "y": row}
        column += width
    machines = "label_values(joulelab_build_info, instance)"
    runs = f"label_values(joulelab_run_energy_joules_total{{{MACHINE}}}, run)"
    return {
        "uid": "joulelab",
        "title": "JouleLab: energy of machines and runs",
        "tags": ["joulelab", "energy"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {
            "list": [
                {"name": "datasource", "label": "Data source", "type": "datasource",
                 "query": "prometheus"},
                _variable("instance", "Machine", machines),
                _variable("run", "Run", runs),
            ]
        },
        "panels": panels,
    }  # fmt: skip


def _variable(name: str, label: str, query: str) -> dict[str, Any]:
    return {
        "name": name,
        "label": label,
        "type": "query",
        "query": {"query": query, "refId": name},
        "definition": query,
        "datasource": SOURCE,
        "refresh": 2,
        "includeAll": True,
        "multi": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


def _panel(
    title: str,
    unit: str,
    text: str,
    *queries: tuple[str, str],
    kind: Literal["timeseries", "stat", "bargauge"] = "timeseries",
    width: int = COLUMNS // 2,
    defaults: Mapping[str, Any] = MappingProxyType({}),
) -> dict[str, Any]:
    """Return a panel with pairs of a query and its legend, and further defaults of its fields."""
    targets = []
    for number, (template, legend) in enumerate(queries):
        query = template
        for name, selector in SELECTORS.items():
            query = query.replace(name, selector)
        is_series = kind == "timeseries"
        targets.append({
            "refId": chr(ord("A") + number), "expr": query, "legendFormat": legend,
            "datasource": SOURCE, "instant": not is_series, "range": is_series,
        })  # fmt: skip
    return {
        "type": kind,
        "title": title,
        "description": text,
        "datasource": SOURCE,
        "gridPos": {"w": width, "h": HEIGHT},
        "fieldConfig": {"defaults": {"unit": unit, "min": 0, **defaults}, "overrides": []},
        "targets": targets,
    }


RED_ABOVE_0 = {
    "thresholds": {
        "mode": "absolute",
        "steps": [{"color": "green", "value": None}, {"color": "red", "value": 1e-9}],
    },
    "color": {"mode": "thresholds"},
}
STACKED = {"custom": {"stacking": {"mode": "normal"}, "fillOpacity": 30}}


def _panels() -> list[dict[str, Any]]:
    return [
        _panel("Power now", "watt",
            "All parts of the machine; meters that enclose parts are not added.",
            ("sum by (instance) (joulelab_power_watts{PART})", "{{instance}}"),
            kind="stat", width=6),
        _panel("Energy", "joule",
            "In the time range of the dashboard.",
            ("sum by (instance) (increase(joulelab_energy_joules_total{PART}[$__range]))",
             "{{instance}}"),
            kind="stat", width=6),
        _panel("Emissions", "massg",
            "In the time range. Set the location once with joulelab site.",
            ("sum by (instance) (increase(joulelab_emissions_grams_total{MACHINE}[$__range]))",
             "{{instance}}"),
            kind="stat", width=6),
        _panel("Cost", "none",
            "In the time range. Set a price once with joulelab site.",
            ("sum by (instance, currency) (increase(joulelab_cost_total{MACHINE}[$__range]))",
             "{{currency}} {{instance}}"),
            kind="stat", width=6),
        _panel("Power by component", "watt",
            "Mean power between two scrapes. A gap is a time without readings.",
            ("rate(joulelab_energy_joules_total{PART}[$__rate_interval])",
             "{{component}} {{instance}}"),
            defaults=STACKED),
        _panel("Sum of parts and enclosing meters", "watt",
            "An enclosing meter, for example of the whole node, includes the parts. The "
            "difference is what no part's sensor measures: fans, disks, network, power supplies.",
            ("sum by (instance) (rate(joulelab_energy_joules_total{PART}[$__rate_interval]))",
             "sum of parts {{instance}}"),
            ("rate(joulelab_energy_joules_total{ENCLOSING}[$__rate_interval])",
             "{{component}} {{instance}}")),
        _panel("Power by run", "watt",
            "Of the whole machine while the run lasts.",
            ("sum by (run) (joulelab_run_power_watts{RUN_PART})", "{{run}}")),
        _panel("Energy by run", "joule",
            "Of the whole machine since the run began.",
            ("sum by (run) (joulelab_run_energy_joules_total{RUN_PART})", "{{run}}")),
        _panel("Energy by span", "joule",
            "In the time range. Spans may enclose each other, so they do not add up.",
            ("sum by (run, span) (increase(joulelab_run_span_energy_joules_total{RUN}[$__range]))",
             "{{span}} ({{run}})"),
            kind="bargauge"),
        _panel("Power in spans", "watt",
            "Mean power while a span of the name was open.",
            ("rate(joulelab_run_span_energy_joules_total{RUN}[$__rate_interval]) / "
             "rate(joulelab_run_span_seconds_total{RUN}[$__rate_interval])",
             "{{span}} ({{run}})")),
        _panel("Finished spans", "ops",
            "Per second.",
            ("rate(joulelab_run_spans_total{RUN}[$__rate_interval])", "{{span}} ({{run}})")),
        _panel("Emissions by run", "massg",
            "Since the run began.",
            ("sum by (run) (joulelab_run_emissions_grams_total{RUN})", "{{run}}")),
        _panel("Cost by run", "none",
            "Since the run began.",
            ("sum by (run, currency) (joulelab_run_cost_total{RUN})", "{{currency}} {{run}}")),
        _panel("Carbon intensity", "none",
            "Of the electricity, in g CO2e per kWh.",
            ("joulelab_carbon_intensity_grams_per_kwh{MACHINE}", "{{origin}} {{instance}}")),
        _panel("Uncertainty of the energy", "percentunit",
            "Half the width of the 95 % interval, over the energy.",
            ("joulelab_energy_uncertainty_ratio{MACHINE}", "{{component}} {{instance}}"),
            ("joulelab_run_energy_uncertainty_ratio{RUN}", "{{component}} {{run}}")),
        _panel("Lost sensors", "none",
            "Components whose sensors answered before and do not answer now.",
            ("sum by (instance) (1 - joulelab_component_up{MACHINE})", "{{instance}}"),
            kind="stat", width=6, defaults=RED_ABOVE_0),
        _panel("Missing sources", "none",
            "Sources that were missing when the exporter started; joulelab doctor says why.",
            ("count by (instance) (joulelab_component_absent_info{MACHINE}) or 0 * "
             "joulelab_runs{MACHINE}",
             "{{instance}}"),
            kind="stat", width=6),
        _panel("Failed readings", "ops",
            "Per second, by sensor.",
            ("rate(joulelab_sensor_errors_total{MACHINE}[$__rate_interval])",
             "{{component}} {{source}} {{instance}}"),
            defaults=RED_ABOVE_0),
        _panel("Runs", "none",
            "Recordings on the machine: of joulelab run, of studies and of meters.",
            ("joulelab_runs{MACHINE}", "{{instance}}"),
            width=6),
        _panel("Cost of measuring", "s",
            "Time of a measurement, and processor time of the exporter per second.",
            ("joulelab_scrape_duration_seconds{MACHINE}", "measurement {{instance}}"),
            ("rate(process_cpu_seconds_total{MACHINE}[$__rate_interval]) and on (instance) "
             "joulelab_build_info{MACHINE}",
             "processor {{instance}}"),
            width=6),
    ]  # fmt: skip
