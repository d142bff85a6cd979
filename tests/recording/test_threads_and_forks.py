"""Spans of many threads, and of children that were forked or spawned."""

import asyncio
import multiprocessing
import subprocess
import sys
import threading

import psutil
import pytest

import joulelab
from joulelab.recording.trace import read_trace
from joulelab.sensors.simulated import SimulatedMachine

MACHINE = SimulatedMachine.default()
THREADS, SPANS = 8, 1000

pytestmark = pytest.mark.usefixtures("home")


def rows(directory):
    """The spans of a trace, by process and index."""
    return {span.key: span for span in read_trace(directory).spans}


def test_each_thread_nests_its_own_spans(tmp_path):
    def work():
        with meter.span("outer") as outer, meter.span("inner") as inner:
            parents.append(inner.parent == outer.index)

    parents = []
    with joulelab.Meter(sensors=MACHINE, directory=tmp_path) as meter, meter.span("main"):
        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert parents == [True] * 8
    assert {span.parent for span in meter.spans_named("outer")} == {None}


def test_each_task_nests_its_own_spans_within_the_span_that_created_it(tmp_path):
    async def work(index):
        with meter.span("outer", index=index) as outer:
            await asyncio.sleep(0)
            with meter.span("inner") as inner:
                await asyncio.sleep(0)
            in_thread = await asyncio.to_thread(work_in_thread)
        assert inner.parent == in_thread.parent == outer.index

    def work_in_thread():
        with meter.span("in thread") as span:
            return span

    async def main():
        with meter.span("main"):
            await asyncio.gather(*map(work, range(20)))

    with joulelab.Meter(sensors=MACHINE, directory=tmp_path) as meter:
        asyncio.run(main())
        with meter.span("after") as after:
            pass
    [outermost] = meter.spans_named("main")
    assert {span.parent for span in meter.spans_named("outer")} == {outermost.index}
    assert after.parent is None


def test_meters_nest_their_own_spans(tmp_path):
    with (
        joulelab.Meter(sensors=MACHINE, directory=tmp_path) as one,
        joulelab.Meter(sensors=MACHINE, own_recorder=True) as other,
        one.span("one") as outer,
        other.span("other") as between,
        one.span("one") as inner,
    ):
        pass
    assert inner.parent == outer.index
    assert between.parent is None


def test_thousands_of_spans_from_each_of_many_threads(tmp_path):
    def work(worker):
        ready.wait()
        with meter.span("worker", worker=worker):
            for step in range(SPANS):
                with meter.span("step", worker=worker, step=step):
                    pass

    ready = threading.Barrier(THREADS)
    with joulelab.Meter(sensors=MACHINE, directory=tmp_path) as meter:
        threads = [threading.Thread(target=work, args=(worker,)) for worker in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert meter.energy("step").gross_j > 0
    spans = rows(tmp_path)
    assert len(spans) == len(meter.spans) == THREADS * (SPANS + 1)
    steps = [span for span in spans.values() if span.name == "step"]
    seen = sorted((span.attributes["worker"], span.attributes["step"]) for span in steps)
    assert seen == [(worker, step) for worker in range(THREADS) for step in range(SPANS)]
    for span in steps:
        parent = spans[span.parent]
        assert parent.attributes["worker"] == span.attributes["worker"]
        assert parent.thread == span.thread
        assert parent.start_ns <= span.start_ns <= span.stop_ns <= parent.stop_ns


def test_spans_of_one_thread_may_overlap(tmp_path):
    with joulelab.Meter(sensors=MACHINE, directory=tmp_path) as meter:
        first = meter.begin("first")
        second = meter.begin("second")
        meter.end(first)
        third = meter.begin("third")
        meter.end(second)
        fourth = meter.begin("fourth")
        meter.end(third)
        meter.end(fourth)
        last = meter.begin("last")
        meter.end(last)
    assert [span.parent for span in meter.spans] == [None, 0, 1, 2, None]


def test_another_thread_may_end_a_span(tmp_path):
    with joulelab.Meter(sensors=MACHINE, directory=tmp_path) as meter:
        span = meter.begin("request")
        thread = threading.Thread(target=meter.end, args=(span,))
        thread.start()
        thread.join()
        with meter.span("next") as after:
            pass
    assert span.stop_ns is not None
    assert after.parent is None


FORKING = """
import os, sys, joulelab
from joulelab.sensors.simulated import SimulatedMachine
meter = joulelab.Meter(sensors=SimulatedMachine.default(), directory=sys.argv[1])
with meter.span("around"):
    child = os.fork()
    if child == 0:
        with meter.span("child"):
            pass
        os._exit(0)
    os.waitpid(child, 0)
with meter.span("parent"):
    pass
meter.close()
"""


def test_a_forked_childs_spans_reach_the_trace(tmp_path):
    subprocess.run([sys.executable, "-c", FORKING, str(tmp_path)], check=True)
    names = [(span.name, span.key[0]) for span in rows(tmp_path).values()]
    assert sorted(name for name, _ in names) == ["around", "child", "parent"]
    pids = dict(names)
    assert pids["around"] == pids["parent"] != pids["child"]


LEAVING = """
import os, sys, joulelab
with joulelab.Meter(sensors=["simulated"]) as meter:
    with meter.span("around") as span:
        if os.fork() == 0:
            with meter.span("child"):
                pass
            raise SystemExit(0 if meter.alive else 1)
        assert os.wait()[1] == 0
    assert meter.directory.exists() and meter.alive
    assert span.energy.gross_j > 0
    assert b"child" in (meter.directory / "events.jsonl").read_bytes()
assert not meter.directory.exists()
"""


def test_a_forked_child_that_leaves_the_meters_block_does_not_end_the_recording():
    subprocess.run([sys.executable, "-c", LEAVING], check=True)


POOL = """
import multiprocessing, os, sys, joulelab
from joulelab.sensors.simulated import SimulatedMachine

def work(number):
    with meter.span("task", number=number):
        return number * number

if __name__ == "__main__":
    meter = joulelab.Meter(sensors=SimulatedMachine.default(), directory=sys.argv[1])
    with multiprocessing.get_context("fork").Pool(3) as pool, meter.span("pool"):
        assert pool.map(work, range(30)) == [n * n for n in range(30)]
        pool.close()
        pool.join()
    meter.close()
"""


def test_spans_of_a_pool_of_forked_workers_reach_the_trace(tmp_path):
    script = tmp_path / "pool.py"
    script.write_text(POOL)
    subprocess.run([sys.executable, script, tmp_path / "run"], check=True)
    tasks = [span for span in rows(tmp_path / "run").values() if span.name == "task"]
    assert sorted(span.attributes["number"] for span in tasks) == list(range(30))
    assert all(span.stop_ns >= span.start_ns > 0 for span in tasks)


SPAWNING = """
import multiprocessing, sys, joulelab
from joulelab.recording.trace import read_trace
from joulelab.sensors.simulated import SimulatedMachine

def work(directory):
    with joulelab.Meter(sensors=SimulatedMachine.default(), directory=directory) as meter:
        with meter.span("child") as span:
            total = sum(range(100_000))
        return total, span.energy.gross_j

if __name__ == "__main__":
    with joulelab.Meter(sensors=SimulatedMachine.default(), directory=sys.argv[1]) as meter:
        with meter.span("parent"), multiprocessing.get_context("spawn").Pool(2) as pool:
            found = pool.map(work, [sys.argv[1] + "/a", sys.argv[1] + "/b"])
            pool.close()
            pool.join()
        assert [total for total, _ in found] == [sum(range(100_000))] * 2
        assert all(gross_j > 0 for _, gross_j in found)
        assert meter.alive and meter.energy("parent").gross_j > 0
"""


def test_spawned_children_have_meters_of_their_own(tmp_path):
    script = tmp_path / "spawning.py"
    script.write_text(SPAWNING)
    run = tmp_path / "run"
    subprocess.run([sys.executable, script, run], check=True)
    assert [span.name for span in rows(run).values()] == ["parent"]
    for child in ("a", "b"):
        assert [span.name for span in rows(run / child).values()] == ["child"]


def test_sending_a_meter_to_another_process_fails_with_a_hint():
    with joulelab.Meter(sensors=MACHINE) as meter:
        child = multiprocessing.get_context("spawn").Process(target=print, args=(meter,))
        with pytest.raises(TypeError, match="open one there"):
            child.start()
        assert meter.alive


def test_the_recorder_ends_with_its_program_although_a_child_goes_on(tmp_path):
    script = (
        "import os, sys, time, joulelab\n"
        "meter = joulelab.Meter(sensors=['simulated'], directory=sys.argv[1])\n"
        "print(meter.recorder_pid, flush=True)\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    sys.stdin.read()\n"
        "    os._exit(0)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, tmp_path / "run"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as program:
        recorder = psutil.Process(int(program.stdout.readline()))
        program.wait()
        recorder.wait(20)
        assert read_trace(tmp_path / "run").events[-1]["event"] == "stop"
