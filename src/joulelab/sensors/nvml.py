"""NVIDIA GPUs, through the driver's management library (NVML).

What the driver offers, on an H100 (driver 580), and what is made of it:

==========================================  ==================================================
``nvmlDeviceGetSamples`` (total power)      a ring of about 120 readings, one each 20 ms, with
                                            their times; 0.6 ms a call. The preferred source.
``nvmlDeviceGetTotalEnergyConsumption``     a counter, new each 100 ms; 4 ms a call.
field ``NVML_FI_DEV_POWER_INSTANT``         a mean of 25 ms, new each 100 ms: a quarter of the time.
``nvmlDeviceGetPowerUsage``                 a mean of 1 s (on Ampere and newer, but not on GA100).
==========================================  ==================================================

The last two are polled only where the first two do not exist.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import pynvml

from joulelab.sensors.calibration import calibrated
from joulelab.sensors.nvml_ring import PowerRing
from joulelab.sensors.selection import GpuIdentity, Selection, visible_gpus
from joulelab.sensors.sensor import Absence, Channel, Gap, Provenance, Quantity, Reading

GAIN_UNCERTAINTY = 0.065
"""k = 1. NVIDIA states ±5 % (NVML API reference, nvmlDeviceGetPowerUsage), but against external
meters boards commonly read -1 to -6 % and up to -11 % (Yang, Adámek, Armour, "Part-time power
measurements: nvidia-smi's lack of attention", SC24). Truth is 12.4 % above a reading that is 11 %
low, the edge of the 95 % interval: 12.4 % / 1.96. Boards that read high exist too, so no mean
correction is made; ``joulelab calibrate`` makes one for a board."""

READ_INTERVAL_S = 0.5
SLOW_INTERVAL_S = 1.0
POLL_INTERVAL_S = 0.1
COUNTER_PERIOD_S = 0.1
COUNTER_CPU_SHARE = 0.005
"""Where the counter is the only source it is read as often as this share of a core allows."""

NO_LIBRARY_MEND = (
    "install the NVIDIA driver; in a container: docker run --gpus all with "
    "NVIDIA_DRIVER_CAPABILITIES=compute,utility"
)
MIG_NOTE = "MIG is on: this is the whole board's, and cannot be split between its instances"


@dataclass(frozen=True, slots=True)
class Board:
    """One GPU as NVML names it.

    Attributes:
        identity: Index, UUIDs and model.
        mig: Whether MIG is on; ``None`` where the GPU does not know MIG.
    """

    identity: GpuIdentity
    mig: bool | None

    @property
    def component(self) -> str:
        """``"gpu:<NVML index>"``."""
        return f"gpu:{self.identity.index}"


@dataclass(frozen=True, slots=True)
class _Scalar:
    """A channel that is one call and one number."""

    channel: Channel
    read: Callable[[Any], float]
    interval_s: float


class NvmlSensor:
    """One GPU. Power from the ring, energy from the counter, and telemetry.

    A failed call is a gap with NVML's reason; the GPU is looked up again by its UUID before the
    next reading.

    Args:
        board: Which GPU.

    Raises:
        pynvml.NVMLError: The GPU cannot be opened.
    """

    def __init__(self, board: Board) -> None:
        self._uuid = board.identity.uuid
        self.absent: list[Absence] = []
        pynvml.nvmlInit()
        try:
            self._handle: Any = pynvml.nvmlDeviceGetHandleByUUID(self._uuid)
            self._ring, self._scalars = self._probe(board)
        except pynvml.NVMLError:
            pynvml.nvmlShutdown()
            raise
        self._first_scalar = 0 if self._ring is None else 1
        rings = [] if self._ring is None else [self._ring.channel]
        note = MIG_NOTE if board.mig else ""
        self.channels: Sequence[Channel] = tuple(
            replace(channel, note="; ".join(filter(None, (channel.note, note))))
            for channel in [*rings, *(scalar.channel for scalar in self._scalars)]
        )
        self.interval_s = min([READ_INTERVAL_S, *(s.interval_s for s in self._scalars)])
        self._due_ns = [0] * len(self._scalars)

    def read(self) -> list[Reading | Gap]:
        """The ring's new readings, and one of each other channel that is due."""
        now_ns = time.monotonic_ns()
        if self._handle is None:
            try:
                self._handle = pynvml.nvmlDeviceGetHandleByUUID(self._uuid)
            except pynvml.NVMLError as error:
                reason = f"NVML: {error}"
                return [Gap(now_ns, position, reason) for position in range(len(self.channels))]
        readings: list[Reading | Gap] = []
        failed = False
        if self._ring is not None:
            try:
                readings += self._ring.read(self._handle, 0)
            except pynvml.NVMLError as error:
                readings.append(Gap(now_ns, 0, f"NVML: {error}"))
                failed = True
        for position, scalar in enumerate(self._scalars):
            if now_ns < self._due_ns[position]:
                continue
            # Half a read's interval of leeway: a wake-up a little early is not a turn missed.
            wait_s = scalar.interval_s - self.interval_s / 2
            self._due_ns[position] = now_ns + int(wait_s * 1e9)
            channel = self._first_scalar + position
            before_ns = time.monotonic_ns()
            try:
                value = scalar.read(self._handle)
            except pynvml.NVMLError as error:
                readings.append(Gap(before_ns, channel, f"NVML: {error}"))
                failed = True
            else:
                t_ns = (before_ns + time.monotonic_ns()) // 2
                readings.append(Reading(t_ns, channel, value))
        if failed:
            self._handle = None
        return readings

    def close(self) -> None:
        """Lets go of NVML."""
        pynvml.nvmlShutdown()

    def _probe(self, board: Board) -> tuple[PowerRing | None, list[_Scalar]]:
        """Which calls this GPU answers; those it refuses go to :attr:`absent`."""
        component = board.component
        ring = None
        try:
            ring = PowerRing.open(self._handle, component, GAIN_UNCERTAINTY)
        except pynvml.NVMLError as error:
            self._refused(component, "nvml.samples", error)
        counter = self._supported([_counter(component)])
        if counter and ring is None:
            seconds = median(_seconds(counter[0].read, self._handle) for _ in range(3))
            every_s = min(max(seconds / COUNTER_CPU_SHARE, COUNTER_PERIOD_S), SLOW_INTERVAL_S)
            counter = [replace(counter[0], interval_s=every_s)]
        fallbacks: list[_Scalar] = []
        if ring is None and not counter:
            fallbacks = self._supported(_polled_power(component, self._handle))
        return ring, [*counter, *fallbacks, *self._supported(_telemetry(component))]

    def _supported(self, scalars: Sequence[_Scalar]) -> list[_Scalar]:
        supported = []
        for scalar in scalars:
            try:
                scalar.read(self._handle)
            except pynvml.NVMLError as error:
                self._refused(scalar.channel.component, scalar.channel.source, error)
            else:
                supported.append(scalar)
        return supported

    def _refused(self, component: str, source: str, error: pynvml.NVMLError) -> None:
        self.absent.append(
            Absence(component, source, f"this GPU or driver does not give it: {error}")
        )


def discover_gpus(
    visible: str | None = None, device_order: str | None = None
) -> tuple[list[NvmlSensor], list[Absence]]:
    """The GPUs that this process may use, one sensor each.

    Args:
        visible: As ``CUDA_VISIBLE_DEVICES``; ``None`` is all.
        device_order: As ``CUDA_DEVICE_ORDER``.

    Returns:
        Sensors in the order in which CUDA counts the GPUs, and what is absent.
    """
    try:
        boards = list_boards()
    except pynvml.NVMLError as error:
        return [], [nvml_absence(error)]
    if not boards:
        return [], [Absence("gpu", "nvml", "the NVIDIA driver sees no GPU", NO_LIBRARY_MEND)]
    selection = visible_gpus(visible, [board.identity for board in boards], device_order)
    absences = []
    if selection.reason:
        mend = "unset CUDA_VISIBLE_DEVICES, or name GPUs that `nvidia-smi -L` lists"
        absences.append(Absence("gpu", "nvml", selection.reason, mend))
    by_index = {board.identity.index: board for board in boards}
    sensors = []
    for index in selection.indices:
        board = by_index[index]
        try:
            sensor = NvmlSensor(board)
        except pynvml.NVMLError as error:
            absences.append(Absence(board.component, "nvml", f"cannot open this GPU: {error}"))
            continue
        absences += sensor.absent
        if sensor.channels:
            noted = _with_note(sensor.channels, selection)
            sensor.channels, unreadable = calibrated(noted, board.identity.uuid)
            absences += [one for one in unreadable if one not in absences]
            sensors.append(sensor)
        else:
            sensor.close()
    return sensors, absences


def list_boards() -> list[Board]:
    """All GPUs of this machine, by NVML index, which is PCI bus order.

    Raises:
        pynvml.NVMLError: There is no driver, or it refuses.
    """
    pynvml.nvmlInit()
    try:
        return [_board(index) for index in range(pynvml.nvmlDeviceGetCount())]
    finally:
        pynvml.nvmlShutdown()


def nvml_absence(error: pynvml.NVMLError) -> Absence:
    """Why NVML as a whole is not there."""
    if isinstance(error, pynvml.NVMLError_LibraryNotFound):
        reason = "no NVIDIA driver library (libnvidia-ml.so.1) here"
        return Absence("gpu", "nvml", reason, NO_LIBRARY_MEND)
    mend = "see whether `nvidia-smi` works; after an update of the driver, restart the machine"
    return Absence("gpu", "nvml", f"NVML does not start: {error}", mend)


def environment_selection() -> tuple[str | None, str | None]:
    """``CUDA_VISIBLE_DEVICES`` and ``CUDA_DEVICE_ORDER`` of this process."""
    return os.environ.get("CUDA_VISIBLE_DEVICES"), os.environ.get("CUDA_DEVICE_ORDER")


def _board(index: int) -> Board:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    try:
        mig: bool | None = pynvml.nvmlDeviceGetMigMode(handle)[0] == pynvml.NVML_DEVICE_MIG_ENABLE
    except pynvml.NVMLError:
        mig = None
    identity = GpuIdentity(
        index=index,
        uuid=pynvml.nvmlDeviceGetUUID(handle),
        mig_uuids=_mig_uuids(handle) if mig else (),
        model=pynvml.nvmlDeviceGetName(handle),
    )
    return Board(identity, mig)


def _mig_uuids(handle: Any) -> tuple[str, ...]:
    uuids = []
    for position in range(pynvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
        try:
            instance = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, position)
        except pynvml.NVMLError_NotFound:
            continue
        uuids.append(pynvml.nvmlDeviceGetUUID(instance))
    return tuple(uuids)


def _with_note(channels: Sequence[Channel], selection: Selection) -> tuple[Channel, ...]:
    return tuple(
        replace(channel, note="; ".join(filter(None, (channel.note, selection.note))))
        for channel in channels
    )


def _counter(component: str) -> _Scalar:
    channel = Channel(
        component=component,
        quantity=Quantity.ENERGY,
        source="nvml.energy_counter",
        provenance=Provenance.MEASURED,
        update_period_s=COUNTER_PERIOD_S,
        polled=True,
        resolution=1e-3,
        gain_uncertainty=GAIN_UNCERTAINTY,
        priority=1,
    )
    return _Scalar(
        channel,
        lambda handle: pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3,
        SLOW_INTERVAL_S,
    )


def _polled_power(component: str, handle: Any) -> list[_Scalar]:
    instant = Channel(
        component=component,
        quantity=Quantity.POWER,
        source="nvml.power_instant",
        provenance=Provenance.MEASURED,
        update_period_s=POLL_INTERVAL_S,
        polled=True,
        window_s=0.025,
        resolution=1e-3,
        gain_uncertainty=GAIN_UNCERTAINTY,
        priority=2,
    )
    usage = replace(
        instant, source="nvml.power_usage", window_s=_usage_window_s(handle), priority=3
    )
    return [
        _Scalar(instant, _instant_power_w, POLL_INTERVAL_S),
        _Scalar(usage, lambda h: pynvml.nvmlDeviceGetPowerUsage(h) / 1e3, POLL_INTERVAL_S),
    ]


def _usage_window_s(handle: Any) -> float:
    """1 s on Ampere and newer, but not GA100 (NVML API reference, nvmlDeviceGetPowerUsage)."""
    try:
        capability = tuple(pynvml.nvmlDeviceGetCudaComputeCapability(handle))
    except pynvml.NVMLError:
        return 0.0
    return 1.0 if capability > (8, 0) else 0.0


def _instant_power_w(handle: Any) -> float:
    field = pynvml.nvmlDeviceGetFieldValues(handle, [pynvml.NVML_FI_DEV_POWER_INSTANT])[0]
    if field.nvmlReturn != pynvml.NVML_SUCCESS:
        raise pynvml.NVMLError(field.nvmlReturn)
    return float(field.value.uiVal) / 1e3


def _telemetry(component: str) -> list[_Scalar]:
    def scalar(
        quantity: Quantity, source: str, read: Callable[[Any], float], note: str = ""
    ) -> _Scalar:
        channel = Channel(
            component=component,
            quantity=quantity,
            source=f"nvml.{source}",
            provenance=Provenance.MEASURED,
            update_period_s=SLOW_INTERVAL_S,
            note=note,
        )
        return _Scalar(channel, read, SLOW_INTERVAL_S)

    return [
        scalar(
            Quantity.UTILIZATION,
            "utilization",
            lambda h: float(pynvml.nvmlDeviceGetUtilizationRates(h).gpu),
            "share of time with a kernel running",
        ),
        scalar(
            Quantity.MEMORY_UTILIZATION,
            "utilization",
            lambda h: float(pynvml.nvmlDeviceGetUtilizationRates(h).memory),
            "share of time with memory read or written",
        ),
        scalar(
            Quantity.MEMORY_USED,
            "memory",
            lambda h: float(pynvml.nvmlDeviceGetMemoryInfo(h).used),
        ),
        scalar(
            Quantity.TEMPERATURE,
            "temperature",
            lambda h: float(pynvml.nvmlDeviceGetTemperature(h, pynvml.NVML_TEMPERATURE_GPU)),
        ),
        scalar(
            Quantity.SM_CLOCK,
            "sm_clock",
            lambda h: pynvml.nvmlDeviceGetClockInfo(h, pynvml.NVML_CLOCK_SM) * 1e6,
        ),
        scalar(
            Quantity.MEMORY_CLOCK,
            "memory_clock",
            lambda h: pynvml.nvmlDeviceGetClockInfo(h, pynvml.NVML_CLOCK_MEM) * 1e6,
        ),
    ]


def _seconds(read: Callable[[Any], float], handle: Any) -> float:
    start = time.perf_counter()
    read(handle)
    return time.perf_counter() - start
