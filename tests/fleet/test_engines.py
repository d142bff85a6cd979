"""Errors of missing engines and wrong options, and reports as bytes."""

import sys

import pytest

from joulelab.errors import PlanError, UserError
from joulelab.fleet.engines import engine_named
from joulelab.fleet.host import decode, encode
from joulelab.study.plan_file import parse
from joulelab.study.runner import run_study
from joulelab.study.share import Report


@pytest.mark.parametrize(("engine", "package"), [("slurm", "submitit"), ("ray", "ray")])
def test_a_missing_package_is_named_with_its_extra(
    make_plan, tmp_path, monkeypatch, engine, package
):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf"{package} is not installed; run pip .*\[{engine}\]"):
        run_study(tmp_path / "s", make_plan(3), engine=engine_named(engine))


def test_a_host_without_slurm_is_named(make_plan, tmp_path, monkeypatch):
    pytest.importorskip("submitit", reason="submitit is not installed")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="there is no sbatch; run the study on a login node"):
        run_study(tmp_path / "s", make_plan(3), engine=engine_named("slurm"))


@pytest.mark.parametrize(
    ("fleet", "message"),
    [
        ({"partitoin": "gpu"}, "fleet.partitoin: unknown key; did you mean partition"),
        ({"time": "soon"}, "fleet.time: 'soon' is not valid: write it as for sbatch"),
        ({"nodes": 0}, "fleet.nodes: 0 is not valid"),
        ({"resources": {"GPU": -1.0}}, "fleet.resources.GPU: -1.0 is not valid"),
    ],
)
def test_a_wrong_option_is_explained(make_plan, fleet, message):
    with pytest.raises(PlanError, match=message):
        parse(make_plan(3).to_dict() | {"fleet": fleet}, "plan.toml")


def test_where_a_study_runs_is_not_a_part_of_its_plan(make_plan):
    assert make_plan(3, partition="gpu").to_dict() == make_plan(3).to_dict()
    assert make_plan(3, partition="gpu").replaced(seed=1).fleet.partition == "gpu"


def test_reports_arrive_as_they_were_sent():
    report = Report(
        share="s", kind="record", host="n1", run_id="r0-a", ready={"a": [1, None]}, packed=b"\0\xff"
    )
    assert decode(encode(report)) == report
