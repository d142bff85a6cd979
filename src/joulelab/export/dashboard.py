"""A dashboard for Grafana with the metrics of `joulelab export`."""

from __future__ import annotations

import json
from typing import Any, Literal, NamedTuple

MACHINE = 'instance=~"$instance"'
"""Every query is of the machines that are chosen at the top of the dashboard."""
PART = f'{MACHINE}, role="part"'
ENCLOSING = f'{MACHINE}, role="enclosing"'
RUN = f'{MACHINE}, run=~"$run"'
RUN_PART = f'{RUN}, role="part"'
COLUMNS, HEIGHT = 24, 8
TITLE = "JouleLab: energy of machines and runs"

Kind = Literal["timeseries", "stat", "bargauge"]


class Panel(NamedTuple):
    """A panel: its title and explanation, pairs of a query and its legend, and the unit."""

    title: str
    text: str
    queries: tuple[tuple[str, str], ...]
    unit: str
    kind: Kind = "timeseries"
    width: int = 12
    stacked: bool = False
    is_alert: bool = False  # Anything above 0 is red.


PANELS = (
    Panel(
        "Power now",
        "All parts of the machine; meters that enclose parts are not added.",
        ((f"sum by (instance) (joulelab_power_watts{{{PART}}})", "{{instance}}"),),
        "watt", "stat", 6,
    ),
    Panel(
        "Energy",
        "In the time range of the dashboard.",
        ((f"sum by (instance) (increase(joulelab_energy_joules_total{{{PART}}}[$__range]))",
          "{{instance}}"),),
        "joule", "stat", 6,
    ),
    Panel(
        "Emissions",
        "In the time range. Set the location once with joulelab site.",
        ((f"sum by (instance) (increase(joulelab_emissions_grams_total{{{MACHINE}}}[$__range]))",
          "{{instance}}"),),
        "massg", "stat", 6,
    ),
    Panel(
        "Cost",
        "In the time range. Set a price once with joulelab site.",
        ((f"sum by (instance, currency) (increase(joulelab_cost_total{{{MACHINE}}}[$__range]))",
          "{{currency}} {{instance}}"),),
        "none", "stat", 6,
    ),
    Panel(
        "Power by component",
        "Mean power between two scrapes. A gap is a time without readings.",
        ((f"rate(joulelab_energy_joules_total{{{PART}}}[$__rate_interval])",
          "{{component}} {{instance}}"),),
        "watt", stacked=True,
    ),
    Panel(
        "Sum of parts and enclosing meters",
        "An enclosing meter, for example of the whole node, includes the parts. The difference is "
        "what no part's sensor measures: fans, disks, network, power supplies.",
        ((f"sum by (instance) (rate(joulelab_energy_joules_total{{{PART}}}[$__rate_interval]))",
          "sum of parts {{instance}}"),
         (f"rate(joulelab_energy_joules_total{{{ENCLOSING}}}[$__rate_interval])",
          "{{component}} {{instance}}")),
        "watt",
    ),
    Panel(
        "Power by run",
        "Of the whole machine while the run lasts.",
        ((f"sum by (run) (joulelab_run_power_watts{{{RUN_PART}}})", "{{run}}"),),
        "watt",
    ),
    Panel(
        "Energy by run",
        "Of the whole machine since the run began.",
        ((f"sum by (run) (joulelab_run_energy_joules_total{{{RUN_PART}}})", "{{run}}"),),
        "joule",
    ),
    Panel(
        "Energy by span",
        "In the time range. Spans may enclose each other, so they do not add up.",
        ((f"sum by (run, span) (increase(joulelab_run_span_energy_joules_total{{{RUN}}}"
          "[$__range]))", "{{span}} ({{run}})"),),
        "joule", "bargauge",
    ),
    Panel(
        "Power in spans",
        "Mean power while a span of the name was open.",
        ((f"rate(joulelab_run_span_energy_joules_total{{{RUN}}}[$__rate_interval]) / "
          f"rate(joulelab_run_span_seconds_total{{{RUN}}}[$__rate_interval])",
          "{{span}} ({{run}})"),),
        "watt",
    ),
    Panel(
        "Finished spans",
        "Per second.",
        ((f"rate(joulelab_run_spans_total{{{RUN}}}[$__rate_interval])", "{{span}} ({{run}})"),),
        "ops",
    ),
    Panel(
        "Emissions by run",
        "Since the run began.",
        ((f"sum by (run) (joulelab_run_emissions_grams_total{{{RUN}}})", "{{run}}"),),
        "massg",
    ),
    Panel(
        "Cost by run",
        "Since the run began.",
        ((f"sum by (run, currency) (joulelab_run_cost_total{{{RUN}}})", "{{currency}} {{run}}"),),
        "none",
    ),
    Panel(
        "Carbon intensity",
        "Of the electricity, in g CO2e per kWh.",
        ((f"joulelab_carbon_intensity_grams_per_kwh{{{MACHINE}}}", "{{origin}} {{instance}}"),),
        "none",
    ),
    Panel(
        "Uncertainty of the energy",
        "Half the width of the 95 % interval, over the energy.",
        ((f"joulelab_energy_uncertainty_ratio{{{MACHINE}}}", "{{component}} {{instance}}"),
         (f"joulelab_run_energy_uncertainty_ratio{{{RUN}}}", "{{component}} {{run}}")),
        "percentunit",
    ),
    Panel(
        "Lost sensors",
        "Components whose sensors answered before and do not answer now.",
        ((f"sum by (instance) (1 - joulelab_component_up{{{MACHINE}}})", "{{instance}}"),),
        "none", "stat", 6, is_alert=True,
    ),
    Panel(
        "Missing sources",
        "Sources that were missing when the exporter started; joulelab doctor says why.",
        ((f"count by (instance) (joulelab_component_absent_info{{{MACHINE}}}) or "
          f"0 * joulelab_runs{{{MACHINE}}}", "{{instance}}"),),
        "none", "stat", 6,
    ),
    Panel(
        "Failed readings",
        "Per second, by sensor.",
        ((f"rate(joulelab_sensor_errors_total{{{MACHINE}}}[$__rate_interval])",
          "{{component}} {{source}} {{instance}}"),),
        "ops", is_alert=True,
    ),
    Panel(
        "Runs",
        "Recordings on the machine: of joulelab run, of studies and of meters.",
        ((f"joulelab_runs{{{MACHINE}}}", "{{instance}}"),),
        "none", width=6,
    ),
    Panel(
        "Cost of measuring",
        "Time of a measurement, and processor time of the exporter per second.",
        ((f"joulelab_scrape_duration_seconds{{{MACHINE}}}", "measurement {{instance}}"),
         (f"rate(process_cpu_seconds_total{{{MACHINE}}}[$__rate_interval]) and on (instance) "
          f"joulelab_build_info{{{MACHINE}}}", "processor {{instance}}")),
        "s", width=6,
    ),
)  # fmt: skip


def dashboard_json() -> str:
    """Return the dashboard as the JSON that Grafana imports."""
    return json.dumps(dashboard(), indent=2)


def dashboard() -> dict[str, Any]:
    """Return the dashboard in Grafana's model (version 10 and newer)."""
    panels, column, row = [], 0, 0
    for number, panel in enumerate(PANELS, 1):
        if column + panel.width > COLUMNS:
            column, row = 0, row + HEIGHT
        position = {"x": column, "y": row, "w": panel.width, "h": HEIGHT}
        panels.append(_panel(panel, number, position))
        column += panel.width
    return {
        "uid": "joulelab",
        "title": TITLE,
        "tags": ["joulelab", "energy"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {
            "list": [
                {"name": "datasource", "label": "Data source", "type": "datasource",
                 "query": "prometheus"},
                _variable("instance", "Machine", "label_values(joulelab_build_info, instance)"),
                _variable("run", "Run",
                          f"label_values(joulelab_run_energy_joules_total{{{MACHINE}}}, run)"),
            ]
        },
        "panels": panels,
    }  # fmt: skip


def _panel(panel: Panel, number: int, position: dict[str, int]) -> dict[str, Any]:
    defaults: dict[str, Any] = {"unit": panel.unit, "min": 0}
    if panel.is_alert:
        steps = [{"color": "green", "value": None}, {"color": "red", "value": 1e-9}]
        defaults |= {
            "thresholds": {"mode": "absolute", "steps": steps},
            "color": {"mode": "thresholds"},
        }
    if panel.stacked:
        defaults["custom"] = {"stacking": {"mode": "normal"}, "fillOpacity": 30}
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.text,
        "datasource": _SOURCE,
        "gridPos": position,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "targets": [
            {
                "refId": chr(ord("A") + k),
                "expr": query,
                "legendFormat": legend,
                "datasource": _SOURCE,
                "instant": panel.kind != "timeseries",
                "range": panel.kind == "timeseries",
            }
            for k, (query, legend) in enumerate(panel.queries)
        ],
    }


_SOURCE = {"type": "prometheus", "uid": "${datasource}"}


def _variable(name: str, label: str, query: str) -> dict[str, Any]:
    return {
        "name": name,
        "label": label,
        "type": "query",
        "query": {"query": query, "refId": name},
        "definition": query,
        "datasource": _SOURCE,
        "refresh": 2,
        "includeAll": True,
        "multi": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }
