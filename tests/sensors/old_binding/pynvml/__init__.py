"""A stand-in for the package pynvml 11.4.1, whose directory hides nvidia-ml-py's ``pynvml.py``.

It calls nvidia-ml-py as the old package calls the driver: texts are bytes on both sides, ``str`` is
refused as ctypes refuses it, and what was added later is missing.
"""

import importlib.util
import sys
from functools import wraps
from pathlib import Path

HERE = Path(__file__).parents[1]
LATER = (
    "NVML_FI_DEV_POWER_INSTANT", "NVML_FI_DEV_POWER_AVERAGE", "NVML_POWER_SCOPE_MODULE",
    "nvmlDeviceGetComputeRunningProcesses_v3", "nvmlDeviceGetGraphicsRunningProcesses_v3",
    "nvmlDeviceGetTemperatureV", "nvmlDeviceGetMemoryBusWidth", "nvmlDeviceGetPowerSource",
)  # fmt: skip


def _load():
    for folder in sys.path:
        file = Path(folder or ".", "pynvml.py")
        if file.exists():
            spec = importlib.util.spec_from_file_location("nvidia_ml_py", file)
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            return module
    raise ImportError("nvidia-ml-py is not installed")


def _in_bytes(function):
    @wraps(function)
    def old(*arguments):
        for one in arguments:
            if isinstance(one, str):
                kind = "bytes or integer address expected instead of str instance"
                raise TypeError(kind)
        value = function(*arguments)
        return value.encode() if isinstance(value, str) else value

    return old


nvidia_ml_py = sys.modules.setdefault("nvidia_ml_py", None) or _load()
sys.modules["nvidia_ml_py"] = nvidia_ml_py
for _name, _value in vars(nvidia_ml_py).items():
    if _name.startswith(("nvml", "NVML", "c_nvml")) and _name not in LATER:
        is_function = callable(_value) and not isinstance(_value, type)
        globals()[_name] = _in_bytes(_value) if is_function else _value
__version__ = "11.4.1"
