"""Hosts of one study: pooled where the hardware is the same, and compared with each other."""

import json
import math

import numpy as np
import pandas as pd
import pytest

from joulelab.findings.all import analyze
from joulelab.findings.hosts import host_effects, host_findings, pool_hosts
from joulelab.findings.schema import RUN_COLUMNS, frame
from joulelab.findings.summary import summary
from joulelab.findings.tables import StudyTables
from joulelab.report.first_screen import first_screen


def runs_of(hosts, *, blocks=6, models=("a", "b", "c"), worse=None, scatter=0.01, seed=0):
    """Blocks on hosts in turn; a cell of model i costs 100 (i + 1) J, times what ``worse`` says."""
    draw = np.random.default_rng(seed)
    rows = []
    for block in range(blocks):
        host, machine = hosts[block % len(hosts)]
        of_block = draw.normal(0, scatter)
        for index, model in enumerate(models):
            error = of_block + draw.normal(0, scatter / 4)
            energy_j = 100.0 * (index + 1) * math.exp(error) * (worse or {}).get(host, 1.0)
            rows.append(
                {
                    "run_id": f"r{block}-{model}", "study": "s", "block": block, "repeat": block,
                    "order": index, "model": model, "phase": "train", "host": host,
                    "machine": machine, "status": "done", "samples": 100, "duration_s": 1.0,
                    "gross_j": energy_j, "sources": "gpu:0=nvml", "provenance": "measured",
                }
            )  # fmt: skip
    return frame(rows, RUN_COLUMNS)


EQUAL = [("n1", "m"), ("n2", "m"), ("n3", "m")]


def gross(effects):
    return {row["host"]: row for row in effects.to_dict("records") if row["quantity"] == "gross"}


def test_hosts_of_the_same_hardware_are_averaged_and_others_are_not():
    means = summary(pool_hosts(runs_of([*EQUAL, ("n4", "other")], blocks=8)))
    assert {(row["host"], row["n"]) for row in means.to_dict("records")} == {
        ("n1, n2 and n3", 6),
        ("n4", 2),
    }


def test_the_parts_of_a_block_on_several_hosts_are_blocks_of_their_own():
    runs = runs_of(EQUAL[:2], blocks=2)
    runs["block"] = 0
    pooled = pool_hosts(runs)
    assert pooled.groupby("block")["run_id"].nunique().tolist() == [3, 3]
    assert pooled["host"].unique().tolist() == ["n1 and n2"]


def test_a_study_of_one_host_is_left_as_it_is():
    runs = runs_of(EQUAL[:1])
    assert pool_hosts(runs) is runs
    assert host_effects(runs).empty
    assert host_findings(host_effects(runs)) == []


def test_a_worse_host_is_found_with_its_interval():
    effects = gross(host_effects(runs_of(EQUAL, blocks=12, worse={"n3": 1.1})))
    assert effects["n3"]["low"] < 1.1 < effects["n3"]["high"]
    assert effects["n3"]["low"] > 1
    findings = {one.id: one for one in host_findings(host_effects(
        runs_of(EQUAL, blocks=12, worse={"n3": 1.1})
    ))}  # fmt: skip
    found = findings["hosts.train.gross"]
    assert found.significant
    assert "on n3 differs significantly from that on the other hosts, by +" in found.statement


def test_a_host_is_compared_by_the_same_cells_also_if_it_ran_others():
    runs = runs_of(EQUAL[:2], blocks=8, scatter=1e-6)
    cheap = runs[~((runs["host"] == "n2") & (runs["model"] == "c"))]
    for row in gross(host_effects(cheap)).values():
        assert row["estimate"] == pytest.approx(1, abs=1e-4)


def test_hosts_without_a_common_cell_are_not_compared():
    runs = runs_of(EQUAL[:2], blocks=8)
    disjoint = runs[(runs["host"] == "n1") == (runs["model"] == "a")]
    assert host_effects(disjoint).empty


def test_one_block_on_each_host_decides_nothing():
    (energy, time) = host_findings(host_effects(runs_of(EQUAL, blocks=3, worse={"n1": 2.0})))
    assert energy.significant is None
    assert time.significant is None
    assert "More repeats than hosts are needed." in energy.statement


def test_like_hosts_are_called_different_in_at_most_one_of_twenty_studies():
    wrong = 0
    for seed in range(120):
        rows = gross(host_effects(runs_of(EQUAL, blocks=9, seed=seed))).values()
        wrong += any(not row["low"] <= 1 <= row["high"] for row in rows)
    # Of 120, 6 are expected at a level of 5 %, and 13 or more with a probability of 1 %.
    assert wrong < 13


def test_an_empty_table_has_no_hosts():
    empty = frame([], RUN_COLUMNS)
    assert isinstance(pool_hosts(empty), pd.DataFrame)
    assert host_effects(empty).empty


def test_the_page_of_a_study_on_mixed_hosts_has_one_part_for_each_kind(synthetic, tmp_path):
    """Three blocks: two on hosts of the same hardware, one on another kind."""
    synthetic.write_study(tmp_path / "s", models=["LeNet"], repeats=3)
    for path in (tmp_path / "s").glob("runs/*/run.json"):
        run = json.loads(path.read_text())
        run["machine"]["host"] = f"n{run['block'] + 1}"
        if run["block"] == 2:
            run["machine"]["cpu_model"] = "another"
        path.write_text(json.dumps(run))
    screen = first_screen(analyze(StudyTables.read([tmp_path / "s"])))
    assert [place.machine.partition(":")[0] for place in screen.places] == ["n1 and n2", "n3"]
