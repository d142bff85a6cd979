"""The process that runs a study on hosts: each cell once, whatever becomes of the hosts."""

from collections import Counter
from dataclasses import replace
from functools import partial

import pytest

from joulelab.errors import DatasetError, JoulelabError
from joulelab.fleet.host import decode, encode
from joulelab.runs.study_runs import read_study
from joulelab.study.cells import blocks
from joulelab.study.runner import list_cells, run_study
from joulelab.study.share import Report, run_share
from joulelab.study.store import StudyStore, pack_run

SENSORS_MISSING = ["UserError", "no sensor", "of the plan is here", ""]


class Hosts:
    """Hosts in this process, one report at a time in turn.

    Args:
        directory: Where each host works.
        worker: The worker of all hosts.
        names: Of the hosts.
        dies: Called with each record before it is reported; a true result loses it and its host's
            share. With ``late`` the record arrives after that.
    """

    name = "slurm"

    def __init__(self, directory, worker, names=("a", "b"), dies=lambda report: False, late=False):
        self.directory, self.worker, self.names = directory, worker, [*names]
        self.dies, self.late = dies, late
        self.started, self.closed, self.leftover = [], False, []
        self._running, self._free = {}, [*names]

    def __call__(self, store, plan):
        self.plan = plan
        return self

    def places(self):
        return len(self.names)

    def start(self, share):
        self.started.append(share)
        host = next(name for name in self._free if name in self.names)
        self._free.remove(host)
        store = StudyStore(self.directory / share.name, self.plan.to_dict())
        reports = run_share(
            store, self.plan, share, host=host, start_worker=partial(self.worker, host)
        )
        self._running[share.name] = (host, store, reports)

    def reports(self, on_phase):
        yield from self.leftover
        self.leftover = []
        for name, (host, store, reports) in list(self._running.items()):
            report = next(reports)
            if report.kind == "record":
                packed = pack_run(store.directory / "runs" / report.run_id)
                report = replace(report, packed=packed)
                if self.dies(report):
                    self.leftover += [report] if self.late else []
                    report = Report(share=name, kind="ended", host=host, text=f"{host} died")
            if report.kind == "ended":
                store.__exit__()
                reports.close()
                del self._running[name]
                self._free.append(host)
            yield decode(encode(report))

    def exclude(self, host):
        self.names.remove(host)

    def close(self):
        self.closed = True
        return iter(())


@pytest.fixture
def hosts(tmp_path, fake_worker):
    """Makes hosts, all of whose cells succeed by default."""

    def make(worker=None, **options):
        answers = worker or (lambda host, log: fake_worker().start(log))
        return Hosts(tmp_path / "hosts", answers, **options)

    return make


@pytest.fixture
def plan(tiny_plan):
    """Twelve cells in three blocks."""
    return tiny_plan.replaced(repeats=3, factors={"batch_size": [8, 16]})


def cells_of(directory):
    return [run for run in read_study(directory).runs if not run.study.is_idle]


def test_each_block_runs_on_one_host_with_idle_before_and_after(plan, tmp_path, hosts):
    engine = hosts()
    outcome = run_study(tmp_path / "s", plan, engine=engine)
    assert (outcome.cells, outcome.failed, engine.closed) == (12, 0, True)
    study = read_study(tmp_path / "s")
    places = {(run.study.block, run.host) for run in study.runs}
    assert len(places) == 3
    assert {host for _, host in places} == {"a", "b"}
    assert {run.machine.host for run in study.runs} == {"a", "b"}
    idles = {(run.study.block, run.id) for run in study.idles()}
    assert idles == {(b, f"r{b}-idle-{when}") for b in range(3) for when in ("before", "after")}
    wanted = [cell.run_id for block in blocks(plan) for cell in block]
    assert sorted(wanted) == sorted(run.id for run in cells_of(tmp_path / "s"))


@pytest.mark.parametrize(
    ("repeats", "nodes", "shares"), [(1, None, 2), (3, None, 3), (2, 4, 4), (1, 1, 1)]
)
def test_blocks_are_divided_only_if_there_is_one_or_the_plan_wants_it(
    plan, tmp_path, hosts, repeats, nodes, shares
):
    names = "abcd" if nodes == 4 else "ab"
    engine = hosts(names=names)
    changed = plan.replaced(repeats=repeats, fleet={"nodes": nodes} if nodes else {})
    assert run_study(tmp_path / "s", changed, engine=engine).cells == 4 * repeats
    assert len(engine.started) == shares
    assert len({share.before for share in engine.started}) == shares


def test_a_cell_whose_host_dies_runs_elsewhere_and_finished_ones_do_not(plan, tmp_path, hosts):
    deaths = iter([False, False, True, False, True])
    seen = Counter()

    def dies(report):
        is_lost = next(deaths, False)
        seen[report.run_id] += not is_lost
        return is_lost

    engine = hosts(dies=dies)
    outcome = run_study(tmp_path / "s", plan, engine=engine)
    assert (outcome.cells, outcome.failed) == (12, 0)
    assert len(engine.started) == 5
    # No run is reported twice: what a dead host had reported is not run again.
    assert set(seen.values()) <= {0, 1}


def test_a_late_record_counts_once(plan, tmp_path, hosts):
    deaths = iter([False, True])
    engine = hosts(dies=lambda report: next(deaths, False), late=True)
    outcome = run_study(tmp_path / "s", plan, engine=engine)
    assert (outcome.cells, outcome.failed) == (12, 0)
    ids = [run.id for run in read_study(tmp_path / "s").runs]
    assert len(ids) == len(set(ids))


def test_what_a_dead_driver_left_behind_is_not_run_again(plan, tmp_path, hosts):
    run_study(tmp_path / "first", plan, engine=hosts())
    done = cells_of(tmp_path / "first")[0]
    packed = pack_run(done.directory)
    engine = hosts()
    engine.directory = tmp_path / "other hosts"
    engine.leftover = [Report(share="old", kind="record", host="z", run_id=done.id, packed=packed)]
    run_study(tmp_path / "second", plan, engine=engine)
    ran = [cell.run_id for share in engine.started for cell in share.cells]
    assert len(ran) == 11
    assert done.id not in ran


def test_a_run_that_is_reported_again_after_it_was_stored_stays_as_it_is(plan, tmp_path, hosts):
    """As when a signal ends the driver before it has noted that the run is stored."""
    run_study(tmp_path / "first", plan, engine=hosts())
    done = cells_of(tmp_path / "first")[0]
    packed = pack_run(done.directory)
    with StudyStore(tmp_path / "second", plan.to_dict()) as store:
        stored = store.adopt(done.id, packed)
        assert store.adopt(done.id, packed).to_json() == stored.to_json()
        assert [path.name for path in (tmp_path / "second" / "runs").iterdir()] == [done.id]


def test_a_study_goes_on_on_another_engine(plan, tmp_path, hosts, fake_worker):
    class Interrupted(Exception):
        pass

    def dies(report):
        if len(list((tmp_path / "s" / "runs").glob("*"))) == 7:
            raise Interrupted
        return False

    engine = hosts(dies=dies)
    with pytest.raises(Interrupted):
        run_study(tmp_path / "s", plan, engine=engine)
    assert engine.closed
    before = {run.id for run in cells_of(tmp_path / "s")}
    worker = fake_worker()
    assert run_study(tmp_path / "s", plan, engine=worker.engine).cells == 12
    asked = [request for request in worker.asked if request["do"] == "cell"]
    assert len(asked) == 12 - len(before)


def test_a_cell_that_loses_three_hosts_is_reported_as_failed(plan, tmp_path, hosts):
    bad = blocks(plan)[1][2].run_id
    engine = hosts(dies=lambda report: report.run_id == bad)
    outcome = run_study(tmp_path / "s", plan, engine=engine)
    assert (outcome.cells, outcome.failed) == (12, 1)
    (failed,) = read_study(tmp_path / "s").failed()
    assert failed.id == bad
    assert failed.failure["kind"] == "host"
    assert "died" in failed.failure["reason"]
    assert len(engine.started) == 6


def refusing(fake_worker, *names):
    """Workers that find no sensor on these hosts."""

    def start(host, log):
        worker = fake_worker()
        if host in names:
            worker.ask = lambda request, hang_s: {"refused": SENSORS_MISSING}
        return worker.start(log)

    return start


def test_a_host_without_sensors_is_named_and_not_used(plan, tmp_path, hosts, fake_worker, capsys):
    engine = hosts(refusing(fake_worker, "a"))
    assert run_study(tmp_path / "s", plan, engine=engine).cells == 12
    assert {run.host for run in cells_of(tmp_path / "s")} == {"b"}
    assert capsys.readouterr().err.count("a runs no cell: no sensor") == 1


def test_a_study_that_no_host_can_run_ends_with_the_reason(plan, tmp_path, hosts, fake_worker):
    with pytest.raises(JoulelabError, match="no sensor: of the plan is here"):
        run_study(tmp_path / "s", plan, engine=hosts(refusing(fake_worker, "a", "b")))
    names = "abcdefgh"
    engine = hosts(refusing(fake_worker, *names), names=names)
    engine.directory = tmp_path / "many"
    with pytest.raises(JoulelabError, match="no sensor"):
        run_study(tmp_path / "t", plan, engine=engine)
    assert len(engine.started) <= 5, "eight hosts are not tried one after another"


def test_progress_names_hosts(plan, tmp_path, hosts, capsys):
    run_study(tmp_path / "s", plan, engine=hosts())
    printed = capsys.readouterr().err
    assert "r0-idle-before on a" in printed
    assert "r1-idle-before on b" in printed


def test_a_refusal_keeps_its_class(plan, tmp_path, hosts, fake_worker):
    def start(host, log):
        worker = fake_worker()
        worker.ask = lambda request, hang_s: {"refused": ["DatasetError", "no data", "", ""]}
        return worker.start(log)

    with pytest.raises(DatasetError, match="no data"):
        run_study(tmp_path / "s", plan, engine=hosts(start, names=("a",)))


def test_the_list_names_the_hosts(plan, tmp_path, hosts):
    run_study(tmp_path / "s", plan, engine=hosts())
    cells, _ = list_cells(plan, tmp_path / "s")
    recorded = {run.id: run.host for run in cells_of(tmp_path / "s")}
    assert {one.cell.run_id: one.host for one in cells} == recorded
