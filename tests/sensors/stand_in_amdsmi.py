"""A module ``amdsmi`` with the functions, dictionaries and exceptions of AMD's (ROCm 6.4 and 7)."""

import time

TEXTS = {
    2: "AMDSMI_STATUS_NOT_SUPPORTED - Feature not supported",
    10: "AMDSMI_STATUS_NO_PERM - Permission Denied",
    31: "AMDSMI_STATUS_NOT_FOUND - Device Not Found",
    39: "AMDSMI_STATUS_UNEXPECTED_DATA",
}


class AmdSmiException(Exception):
    pass


class AmdSmiLibraryException(AmdSmiException):
    """Carries the library's status, as AMD's does."""

    def __init__(self, code):
        self.err_code = code
        self.err_info = TEXTS[code]
        super().__init__(code)

    def get_error_code(self):
        return self.err_code

    def get_error_info(self):
        return self.err_info


class Gpu:
    """One GPU; its counter counts its power in steps of 2^-16 J."""

    def __init__(self, address, power_w=300, key="energy_accumulator"):
        self.address = address
        self.power_w = power_w
        self.key = key
        self.start_s = time.monotonic() - 1000
        self.fail = None
        self.count = None
        self.power = {"average_socket_power": power_w, "current_socket_power": "N/A"}
        self.delay_s = 0.0

    def answer(self):
        time.sleep(self.delay_s)
        if self.fail is not None:
            raise AmdSmiLibraryException(self.fail)


class Library:
    """The module."""

    AmdSmiException = AmdSmiException
    AmdSmiLibraryException = AmdSmiLibraryException

    def __init__(self, *gpus, init=None):
        self.gpus = list(gpus)
        self._init = init

    def amdsmi_init(self):
        if self._init is not None:
            raise AmdSmiLibraryException(self._init)

    def amdsmi_get_processor_handles(self):
        return list(self.gpus)

    def amdsmi_get_gpu_device_bdf(self, gpu):
        return gpu.address.upper()

    def amdsmi_get_energy_count(self, gpu):
        gpu.answer()
        step_uj = 15.259
        count = gpu.count
        if count is None:
            count = int(gpu.power_w * (time.monotonic() - gpu.start_s) / (step_uj * 1e-6))
        return {
            gpu.key: count,
            "counter_resolution": step_uj,
            "timestamp": int(time.monotonic() * 1e9),
        }

    def amdsmi_get_power_info(self, gpu):
        gpu.answer()
        return gpu.power | {"gfx_voltage": 848, "power_limit": 560000000}
