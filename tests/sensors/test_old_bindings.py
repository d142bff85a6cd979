"""Old packages named pynvml in place of nvidia-ml-py, and drivers older than a call."""

import importlib.util
import json
import os
import subprocess
import sys
import types
from pathlib import Path

import fake_nvml
import pynvml
import pytest
from fake_nvml import FakeGpu, FakeNvml

from joulelab.machine import describe
from joulelab.sensors import nvml_binding
from joulelab.sensors.nvml import discover_gpus, list_boards
from joulelab.sensors.nvml_binding import FUNCTION_NOT_FOUND, NvmlError, call

HERE = Path(__file__).parent
OLD = HERE / "old_binding"
NAME = "NVIDIA H100 80GB HBM3"
UUID = "GPU-fa4e0000-0000-4000-8000-000000000000"
SITE = f"""
import sys
import pynvml
import fake_nvml
from fake_nvml import FakeGpu, FakeNvml
gpu = FakeGpu({UUID!r}, name={NAME!r}, power_mw=400_000)
gpu.fill_ring()
pynvml.nvidia_ml_py.nvmlLib = FakeNvml([gpu])
"""


def load_old():
    """The stand-in for pynvml 11.4.1, on the nvidia-ml-py that the tests use."""
    sys.modules["nvidia_ml_py"] = pynvml
    try:
        spec = importlib.util.spec_from_file_location("old", OLD / "pynvml" / "__init__.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        del sys.modules["nvidia_ml_py"]
    return module


def machine(monkeypatch, *gpus):
    for gpu in gpus:
        if gpu.ring == []:
            gpu.fill_ring()
    return fake_nvml.install(monkeypatch, FakeNvml(list(gpus)))


@pytest.fixture
def old(monkeypatch):
    module = load_old()
    monkeypatch.setattr(nvml_binding, "_binding", module)
    monkeypatch.syspath_prepend(str(OLD))
    return module


def test_the_stand_in_behaves_as_the_old_package(monkeypatch, old):
    machine(monkeypatch, FakeGpu(UUID, name=NAME))
    assert old.nvmlDeviceGetName(old.nvmlDeviceGetHandleByIndex(0)) == NAME.encode()
    with pytest.raises(TypeError, match="bytes"):
        old.nvmlDeviceGetHandleByUUID(UUID)
    assert not hasattr(old, "NVML_FI_DEV_POWER_INSTANT")


def test_an_old_binding_measures_like_a_new_one(monkeypatch, old):
    machine(monkeypatch, FakeGpu(UUID, name=NAME, power_mw=400_000, mig_uuids=("MIG-1",)))
    [board] = list_boards()
    assert (board.identity.uuid, board.identity.model) == (UUID, NAME)
    assert board.identity.mig_uuids == ("MIG-1",)
    [sensor], absent = discover_gpus("GPU-fa4e")
    assert absent == []
    assert sensor.read()[0].value == 400
    sensor.close()
    [gpu] = describe(UUID).gpus
    assert (gpu.name, gpu.uuid, gpu.driver) == (NAME, UUID, "580.159.04")
    json.dumps(describe().to_json())


def test_power_without_ring_and_counter_needs_no_new_constant(monkeypatch, old):
    missing = {"nvmlDeviceGetTotalEnergyConsumption"}
    gpu = FakeGpu(UUID, ring=None, unsupported=missing, errors={"nvmlDeviceGetSamples": 3})
    machine(monkeypatch, gpu)
    [sensor], _ = discover_gpus()
    assert [c.source for c in sensor.channels if c.gives_energy] == [
        "nvml.power_instant",
        "nvml.power_usage",
    ]
    sensor.close()


def test_doctor_and_a_run_on_an_old_binding(tmp_path):
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(SITE)
    path = os.pathsep.join(map(str, (site, OLD, HERE)))
    environ = os.environ | {"PYTHONPATH": path, "JOULELAB_HOME": str(tmp_path / "home")}
    environ["CUDA_VISIBLE_DEVICES"] = UUID

    def joulelab(*arguments):
        command = [sys.executable, "-m", "joulelab", *arguments]
        done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        return done

    found = json.loads(joulelab("doctor", "--json").stdout)
    assert [(gpu["name"], gpu["uuid"]) for gpu in found["machine"]["gpus"]] == [(NAME, UUID)]
    sources = {sensor["source"] for sensor in found["sensors"]}
    assert {"nvml.samples", "nvml.energy_counter"} <= sources
    done = joulelab("run", "--sensors", "gpu", "--", sys.executable, "-c", "")
    assert "did not start" not in done.stderr


@pytest.mark.parametrize("missing", ["nvmlInit", "nvmlDeviceGetCount"])
def test_a_package_that_cannot_work_is_named_with_the_fix(monkeypatch, old, missing):
    machine(monkeypatch, FakeGpu(UUID))
    monkeypatch.delattr(old, missing)
    sensors, [absence] = discover_gpus()
    assert sensors == []
    assert f"pynvml 11.4.1 hides nvidia-ml-py: it has no {missing}" in absence.reason
    assert absence.hint == "run `pip uninstall pynvml`"
    assert describe().gpus == ()


def test_an_empty_package_of_that_name_is_named_by_its_place(monkeypatch, tmp_path):
    file = str(tmp_path / "pynvml" / "__init__.py")
    empty = types.SimpleNamespace(__file__=file)
    monkeypatch.setattr(nvml_binding, "_binding", empty)
    monkeypatch.setattr(nvml_binding.metadata, "version", _not_installed)
    _, [absence] = discover_gpus()
    assert str(tmp_path / "pynvml") in absence.reason


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("print 'for Python 2'", "cannot be imported: SyntaxError"),
        ("import missing_module", "cannot be imported: ModuleNotFoundError"),
        ("import warnings\nwarnings.warn('deprecated', FutureWarning)", "it has no nvmlInit"),
    ],
)
def test_a_binding_that_cannot_be_imported_is_named_and_one_that_warns_is_used(
    tmp_path, content, problem
):
    (tmp_path / "pynvml.py").write_text(content)
    program = "from joulelab.sensors.nvml import discover_gpus; print(discover_gpus()[1])"
    done = subprocess.run(
        [sys.executable, "-W", "error::FutureWarning", "-c", program],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert problem in done.stdout
    assert ("pip install --upgrade nvidia-ml-py" in done.stdout) is ("imported" in problem)
    assert "deprecated" not in done.stderr


def _not_installed(name):
    raise nvml_binding.metadata.PackageNotFoundError(name)


@pytest.mark.parametrize(
    "function",
    [
        "nvmlDeviceGetName",
        "nvmlDeviceGetMigMode",
        "nvmlDeviceGetSamples",
        "nvmlDeviceGetTotalEnergyConsumption",
        "nvmlDeviceGetFieldValues",
        "nvmlDeviceGetPowerUsage",
        "nvmlDeviceGetUtilizationRates",
        "nvmlDeviceGetVirtualizationMode",
        "nvmlDeviceGetCudaComputeCapability",
        "nvmlDeviceGetPowerManagementLimitConstraints",
        "nvmlDeviceGetPowerManagementLimit",
        "nvmlSystemGetCudaDriverVersion_v2",
    ],
)
@pytest.mark.parametrize("how", ["the binding lacks it", "the driver lacks it", "it raises"])
def test_a_missing_function_leaves_the_others(monkeypatch, old, function, how):
    library = machine(monkeypatch, FakeGpu(UUID, name=NAME))
    if how == "the binding lacks it":
        monkeypatch.delattr(old, function)
    elif how == "it raises":
        monkeypatch.setattr(old, function, lambda *_: 1 // int("x"))
    else:
        for name in [name for name in vars(library) if name.startswith(function)]:
            delattr(library, name)
    [sensor], absent = discover_gpus()
    readings = sensor.read()
    assert {sensor.channels[one.channel].component for one in readings} == {"gpu:0"}
    assert any(channel.gives_energy for channel in sensor.channels)
    assert all(one.reason for one in absent)
    if how == "the binding lacks it":
        # The driver may well support it.
        assert all(one.reason.startswith("pynvml 11.4.1 hides") for one in absent)
    sensor.close()
    assert len(describe().gpus) == 1


def test_a_lost_gpu_is_named_and_the_other_is_measured(monkeypatch):
    lost = FakeGpu("GPU-a", errors={"nvmlDeviceGetHandleByIndex": pynvml.NVML_ERROR_GPU_IS_LOST})
    library = machine(monkeypatch, lost, FakeGpu("GPU-b"))
    [sensor], [absence] = discover_gpus()
    assert sensor.channels[0].component == "gpu:1"
    assert (absence.component, absence.source) == ("gpu:0", "nvml")
    assert "lost" in absence.reason
    sensor.close()
    assert library.open == 0
    assert [gpu.index for gpu in describe().gpus] == [0, 1]


def test_a_gpu_that_may_not_be_opened_has_a_hint(monkeypatch):
    code = pynvml.NVML_ERROR_NO_PERMISSION
    machine(monkeypatch, FakeGpu("GPU-a", errors={"nvmlDeviceGetHandleByIndex": code}))
    sensors, [absence] = discover_gpus()
    assert sensors == []
    assert absence.reason.startswith("cannot open this GPU")
    assert "/dev/nvidia" in absence.hint


def test_a_refused_gpu_has_a_hint(monkeypatch):
    names = ("nvmlDeviceGetSamples", "nvmlDeviceGetTotalEnergyConsumption", "power_instant",
             "nvmlDeviceGetPowerUsage")  # fmt: skip
    refused = FakeGpu("GPU-a", errors=dict.fromkeys(names, pynvml.NVML_ERROR_NO_PERMISSION))
    machine(monkeypatch, refused)
    [sensor], absent = discover_gpus()
    assert {one.source for one in absent} >= {"nvml.samples", "nvml.energy_counter"}
    assert all("/dev/nvidia" in one.hint for one in absent)
    sensor.close()


def test_codes_and_texts_of_a_driver_newer_than_the_binding(monkeypatch, old):
    machine(monkeypatch, FakeGpu(UUID, errors={"nvmlDeviceGetPowerUsage": 12345}))
    with pytest.raises(NvmlError, match=r"^unknown$") as caught:
        call("nvmlDeviceGetPowerUsage", call("nvmlDeviceGetHandleByIndex", 0))
    assert caught.value.code == 12345
    with pytest.raises(NvmlError) as caught:
        call("nvmlDeviceGetSomethingNew")
    assert caught.value.code == FUNCTION_NOT_FOUND
