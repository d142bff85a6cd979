"""The use of a GPU by process, from the driver's lists."""

import time

import fake_nvml
import pynvml
import pytest

from joulelab.sensors.gpu_processes import GpuUse, UseUnknown
from joulelab.sensors.processes import Process

OURS, THEIRS = 70, 71
TABLE = {
    pid: Process(pid, name, 1, pid, pid, 0.0, 0.0, 5, 0)
    for pid, name in ((OURS, "train"), (THEIRS, "render"))
}


@pytest.fixture
def board(monkeypatch):
    gpu = fake_nvml.FakeGpu("GPU-1", processes=(OURS, THEIRS))
    fake_nvml.install(monkeypatch, fake_nvml.FakeNvml([gpu]))
    return gpu


@pytest.fixture
def host(tmp_path):
    """A ``/proc`` of the whole machine."""
    return namespace(tmp_path, 4026531836)


@pytest.fixture
def container(tmp_path):
    return namespace(tmp_path, 4026532999)


def namespace(root, number):
    (root / "self/ns").mkdir(parents=True)
    (root / "self/ns/pid").symlink_to(f"pid:[{number}]")
    return root


def later_us(seconds):
    return time.time_ns() // 1000 + round(seconds * 1e6)


def test_the_time_of_kernels_divides_the_use_of_two_processes(board, host):
    use = GpuUse("gpu:0", "GPU-1", host)
    board.used = [(OURS, later_us(0.1), 60), (OURS, later_us(0.2), 40), (THEIRS, later_us(0.1), 50)]
    found = use.scan({OURS}, TABLE, 2.0)
    assert found.job_s == pytest.approx(1.0)
    assert found.all_s == pytest.approx(1.5), "one did nothing in the second period"
    assert found.others == {(THEIRS, 5): ("render", 0.5)}


def test_a_context_for_computing_is_named_without_use_and_one_for_graphics_is_not(board, host):
    board.graphics_processes = (72,)
    found = GpuUse("gpu:0", "GPU-1", host).scan({OURS}, TABLE, 1.0)
    assert found.others == {(THEIRS, 5): ("render", 0.0)}


def test_a_sample_counts_once(board, host):
    use = GpuUse("gpu:0", "GPU-1", host)
    board.used = [(OURS, later_us(0.1), 60)]
    use.scan({OURS}, TABLE, 1.0)
    assert use.scan({OURS}, TABLE, 1.0).all_s == 0.0


class Growing(list):
    """Samples to which one is added after they were read."""

    def __init__(self, samples, further):
        super().__init__(samples)
        self._further = list(further)

    def __iter__(self):
        yield from list(super().__iter__())
        if self._further:
            self.append(self._further.pop(0))


def test_a_sample_that_arrives_during_a_scan_is_no_error(board, host):
    use = GpuUse("gpu:0", "GPU-1", host)
    board.used = Growing([(OURS, later_us(0.1), 60)], [(OURS, later_us(0.2), 40)])
    assert use.scan({OURS}, TABLE, 2.0).job_s == pytest.approx(1.0)


def test_garbage_from_the_driver_is_left_out(board, host):
    use = GpuUse("gpu:0", "GPU-1", host)
    board.used = [(OURS, later_us(0.1), 30), (4, later_us(0.1), 4_000_000_000), (5, 2**60, 1)]
    assert use.scan({OURS}, TABLE, 1.0).all_s == pytest.approx(0.3)
    board.used = [(OURS, later_us(0.2), 50)]
    assert use.scan({OURS}, TABLE, 1.0).all_s == pytest.approx(0.5)


@pytest.mark.parametrize("pid", [0, 268435456, 2**32 - 1])
def test_a_list_that_the_binding_misreads_names_no_process(board, host, pid):
    """As nvidia-ml-py 12.535.77, which takes an entry for larger than it is."""
    board.processes = (OURS, pid)
    with pytest.raises(UseUnknown, match=rf"misreads .* \(pid {pid}\): run `pip install --upgrade"):
        GpuUse("gpu:0", "GPU-1", host).scan({OURS}, TABLE, 1.0)


def test_an_invisible_process_is_not_the_jobs(board, host):
    use = GpuUse("gpu:0", "GPU-1", host)
    board.processes = (OURS, 999)
    board.used = [(999, later_us(0.1), 50)]
    found = use.scan({OURS}, TABLE, 1.0)
    assert found.job_s == 0.0
    assert found.others[999, 0] == ("an invisible process", 0.5)


def test_a_job_alone_needs_no_utilisation(board, host):
    board.unsupported = {"nvmlDeviceGetProcessUtilization"}
    board.processes = (OURS,)
    found = GpuUse("gpu:0", "GPU-1", host).scan({OURS}, TABLE, 2.0)
    assert (found.job_s, found.all_s) == (2.0, 2.0)


def test_without_utilisation_other_processes_are_named_and_nothing_is_divided(board, host):
    board.unsupported = {"nvmlDeviceGetProcessUtilization"}
    with pytest.raises(UseUnknown, match=r"render \(pid 71\) may use it too"):
        GpuUse("gpu:0", "GPU-1", host).scan({OURS}, TABLE, 2.0)


@pytest.mark.parametrize(
    ("pids", "message"),
    [
        ((), "a container cannot see which processes use it"),
        ((4000,), "one process uses it, and a container cannot see whether it is yours"),
        # A pid that exists here, too, but as another process.
        ((OURS, 4000), "2 processes use it, and a container cannot see which of them are yours"),
        ((OURS,), "one process uses it, and a container cannot see whether it is yours"),
    ],
)
def test_a_container_cannot_interpret_the_hosts_pids(board, container, pids, message):
    board.processes = pids
    with pytest.raises(UseUnknown, match=message):
        GpuUse("gpu:0", "GPU-1", container).scan({OURS}, TABLE, 1.0)


def test_work_without_a_named_process_is_not_the_jobs(board, host):
    board.processes = ()
    with pytest.raises(UseUnknown, match="names no process"):
        GpuUse("gpu:0", "GPU-1", host).scan({OURS}, TABLE, 1.0)


def test_an_idle_gpu_has_no_users_in_a_container_either(board, container):
    board.processes = ()
    board.utilization_pct = 0
    assert GpuUse("gpu:0", "GPU-1", container).scan({OURS}, TABLE, 1.0) == (0.0, 0.0, {})


def test_pids_of_the_containers_own_processes_are_used(board, container):
    for pid in (OURS, THEIRS):
        (container / f"{pid}/fd").mkdir(parents=True)
        (container / f"{pid}/fd/9").symlink_to("/dev/nvidia0")
    use = GpuUse("gpu:0", "GPU-1", container)
    board.used = [(OURS, later_us(0.1), 30)]
    assert use.scan({OURS}, TABLE, 1.0).job_s == pytest.approx(0.3)


def test_a_lost_gpu_is_looked_up_again(board, host):
    use = GpuUse("gpu:0", "GPU-1", host)
    use.scan({OURS}, TABLE, 1.0)
    board.errors["nvmlDeviceGetComputeRunningProcesses"] = pynvml.NVML_ERROR_GPU_IS_LOST
    with pytest.raises(UseUnknown, match="the driver does not report which processes use it"):
        use.scan({OURS}, TABLE, 1.0)
    board.errors.clear()
    use.scan({OURS}, TABLE, 1.0)
    assert board.calls["nvmlDeviceGetHandleByUUID"] == 2
