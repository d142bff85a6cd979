"""NVIDIA GPUs, through the driver's management library (NVML).

What the driver offers on an H100 (driver 580):

==========================================  ==================================================
``nvmlDeviceGetSamples`` (total power)      a ring of about 120 readings, one every 20 ms, with
                                            timestamps; 0.6 ms per call. The preferred source.
``nvmlDeviceGetTotalEnergyConsumption``     a counter, updated every 100 ms; 4 ms per call.
field ``NVML_FI_DEV_POWER_INSTANT``         a mean of 25 ms every 100 ms: a quarter of the time.
``nvmlDeviceGetPowerUsage``                 a mean of 1 s (on Ampere and newer, but not on GA100).
==========================================  ==================================================

The last two are polled if the first two do not exist. Next to a counter without a ring, the last
one is read once a second, so that a counter that contradicts the power is found.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from joulelab.format import duration
from joulelab.sensors.calibration import calibrated
from joulelab.sensors.interfaces import system_root
from joulelab.sensors.nvml_binding import (
    ANSWER_S,
    LIBRARY_NOT_FOUND,
    MIG_ENABLED,
    NO_PERMISSION,
    VIRTUALIZATION_VGPU,
    NvmlError,
    call,
    within,
)
from joulelab.sensors.nvml_channels import (
    NO_POWER,
    SLOW_INTERVAL_S,
    PowerRing,
    Scalar,
    average_power,
    counter,
    cpu_s,
    is_superchip,
    module_power,
    observe_periods,
    polled_power,
    power_limit_w,
    telemetry,
    with_period,
)
from joulelab.sensors.nvml_pace import READ_INTERVAL_S, paced
from joulelab.sensors.plausibility import with_gpu_bounds
from joulelab.sensors.sensor import Absence, Channel, Gap, Quantity, Reading
from joulelab.sensors.visible_devices import GpuIdentity, visible_gpus

LEAST_ANSWER_S = 1.0
"""Time for each GPU, also if the driver took long to start."""
JOIN_ANSWER_S = 1.0
MAX_CALL_NS = 200_000_000
"""A value from a longer call has no time: the driver may have read it at any moment of the call."""

NVIDIA_VENDOR = "0x10de"  # PCI identifier.
NO_GPU = "none on this machine (GPUs of NVIDIA, AMD and Intel are looked for)"
NO_LIBRARY_HINT = (
    "install the NVIDIA driver; in a container: docker run --gpus all with "
    "NVIDIA_DRIVER_CAPABILITIES=compute,utility"
)
PERMISSION_HINT = (
    "try as root, or ask the administrator for access to /dev/nvidia* (in a container or a job: "
    "to request this GPU)"
)
VGPU_REASON = "a virtual GPU does not report the board's power"
VGPU_HINT = "measure on the host of the virtual machine"
MODULE_NOTE = (
    "on this superchip it is the whole module's (GPU, processor and memory): it is next to the "
    "total, and not in it"
)
MIG_NOTE = "MIG is on: this is the whole board, which cannot be split between its instances"


@dataclass(frozen=True, slots=True)
class Board:
    """One GPU; ``mig`` is ``None`` if it has no MIG, ``virtual`` true for a guest's vGPU."""

    identity: GpuIdentity
    mig: bool | None
    virtual: bool

    @property
    def component(self) -> str:
        """``"gpu:<NVML index>"``."""
        return f"gpu:{self.identity.index}"


class NvmlSensor:
    """One GPU: power from the ring, energy from the counter, and telemetry.

    A failed call is a gap with NVML's reason; the next reading first looks up the GPU again by its
    UUID. Update periods are observed once per model and source, in ``periods_s``.

    Attributes:
        component: The GPU, for example ``"gpu:0"``.
        uuids: The UUIDs of the board and of its MIG instances.
        intervals_s: How often each channel has a value; at most every ``interval_s``.
        absent: The sources that this GPU does not give.
    """

    def __init__(self, board: Board, periods_s: dict[tuple[str, str], float | None]) -> None:
        self._identity, self.component = board.identity, board.component
        self.uuids = (board.identity.uuid, *board.identity.mig_uuids)
        self.absent: list[Absence] = []
        call("nvmlInit")
        try:
            self._handle: Any = self._find()
            self._ring, self._scalars = self._probe(board, periods_s)
        except NvmlError:
            call("nvmlShutdown")
            raise
        self._first_scalar = 0 if self._ring is None else 1
        rings = [] if self._ring is None else [self._ring.channel]
        limit_w = power_limit_w(self._handle)
        self.channels: Sequence[Channel] = tuple(
            _with_note(
                with_gpu_bounds(channel, limit_w)
                if channel.gives_energy and channel.component == board.component
                else channel,
                MIG_NOTE if board.mig else "",
            )
            for channel in [*rings, *(scalar.channel for scalar in self._scalars)]
        )
        self.interval_s = min([READ_INTERVAL_S, *(s.interval_s for s in self._scalars)])
        self.intervals_s = [
            *[self.interval_s for _ in rings],
            *(scalar.interval_s for scalar in self._scalars),
        ]
        self._due_ns = [0] * len(self._scalars)
        self._due_if_requested_ns = [0] * len(self._scalars)
        self._requestable_s = [scalar.interval_s for scalar in self._scalars]
        self._requested = False

    def spare_processor(self, gpus: int) -> None:
        """Read as often as the processor time of the calls of several GPUs allows."""
        calls_s = [cpu_s(scalar.read, self._handle) for scalar in self._scalars]
        ring_s = 0.0 if self._ring is None else self._ring.cpu_s(self._handle)
        self.interval_s, self._scalars = paced(
            ring_s, list(zip(self._scalars, calls_s, strict=True)), gpus
        )
        rings_s = [] if self._ring is None else [self.interval_s]
        self.intervals_s = [*rings_s, *(scalar.interval_s for scalar in self._scalars)]

    def request(self) -> None:
        """Let the next reading include a counter that is the only source of energy."""
        self._requested = self._ring is None

    def read(self) -> list[Reading | Gap]:
        """Return the ring's new readings, and one of each other channel that is due."""
        now_ns = time.monotonic_ns()
        if self._handle is None:
            try:
                self._handle = self._find()
            except NvmlError as error:
                reason = f"NVML: {error}"
                return [Gap(now_ns, position, reason) for position in range(len(self.channels))]
        readings: list[Reading | Gap] = []
        failed = False
        requested, self._requested = self._requested, False
        if self._ring is not None:
            try:
                readings += self._ring.read(self._handle, 0)
            except NvmlError as error:
                readings.append(Gap(now_ns, 0, f"NVML: {error}"))
                failed = True
        for position, scalar in enumerate(self._scalars):
            is_requested = requested and scalar.channel.gives_energy
            due_ns = self._due_if_requested_ns if is_requested else self._due_ns
            if now_ns < due_ns[position]:
                continue
            # Half an interval of leeway: waking up slightly early must not skip a turn.
            wait_s = scalar.interval_s - self.interval_s / 2
            self._due_ns[position] = now_ns + int(wait_s * 1e9)
            self._due_if_requested_ns[position] = now_ns + int(self._requestable_s[position] * 1e9)
            channel = self._first_scalar + position
            before_ns = time.monotonic_ns()
            try:
                value = scalar.read(self._handle)
            except NvmlError as error:
                readings.append(Gap(before_ns, channel, f"NVML: {error}"))
                failed = True
            else:
                took_ns = time.monotonic_ns() - before_ns
                t_ns = before_ns + took_ns // 2
                if took_ns > MAX_CALL_NS:
                    reason = f"NVML: it answered after {duration(took_ns * 1e-9)}"
                    readings.append(Gap(t_ns, channel, reason))
                elif value == 0 and scalar.channel.quantity is Quantity.POWER:
                    readings.append(Gap(t_ns, channel, NO_POWER))
                else:
                    readings.append(Reading(t_ns, channel, value))
        if failed:
            self._handle = None
        return readings

    def close(self) -> None:
        """Shut NVML down."""
        call("nvmlShutdown")

    def _find(self) -> Any:
        if self._identity.uuid:
            return call("nvmlDeviceGetHandleByUUID", self._identity.uuid)
        return call("nvmlDeviceGetHandleByIndex", self._identity.index)

    def _probe(
        self, board: Board, periods_s: dict[tuple[str, str], float | None]
    ) -> tuple[PowerRing | None, list[Scalar]]:
        """Find the calls that this GPU answers; the others go to :attr:`absent`."""
        component, model = board.component, board.identity.model
        ring = None
        try:
            ring = PowerRing.open(self._handle, component)
        except NvmlError as error:
            self._refused(board, "nvml.samples", error)
        counted = self._supported(board, [counter(component)])
        if is_superchip(model, self._handle):
            power = [] if ring else self._timed(self._polled(board), model, periods_s)
            every_s = SLOW_INTERVAL_S if counted else READ_INTERVAL_S
            with contextlib.suppress(NvmlError):  # Drivers before R550 know no scopes.
                counted += module_power(component, self._handle, every_s)
            power += [_of_module(one) for one in counted]
        elif ring:
            power = counted
        elif counted:
            power = self._timed(counted, model, periods_s)
            compared = average_power(component, self._handle, SLOW_INTERVAL_S)
            # Power and counter are one sensor's.
            period_s = power[0].channel.update_period_s
            compared = replace(
                compared, channel=replace(compared.channel, update_period_s=period_s)
            )
            power += self._supported(board, [compared])
        else:
            power = self._timed(self._polled(board), model, periods_s)
        return ring, [*power, *self._supported(board, telemetry(component))]

    def _polled(self, board: Board) -> list[Scalar]:
        return self._supported(board, polled_power(board.component, self._handle))

    def _timed(
        self, scalars: Sequence[Scalar], model: str, periods_s: dict[tuple[str, str], float | None]
    ) -> list[Scalar]:
        """Observe the update periods that are not known yet, and read each value once in its."""
        new = [one for one in scalars if (model, one.channel.source) not in periods_s]
        for scalar, period_s in zip(new, observe_periods(new, self._handle), strict=True):
            periods_s[model, scalar.channel.source] = period_s
        return [
            with_period(scalar, periods_s[model, scalar.channel.source], self._handle)
            for scalar in scalars
        ]

    def _supported(self, board: Board, scalars: Sequence[Scalar]) -> list[Scalar]:
        supported = []
        for scalar in scalars:
            try:
                scalar.read(self._handle)
            except NvmlError as error:
                self._refused(board, scalar.channel.source, error)
            else:
                supported.append(scalar)
        return supported

    def _refused(self, board: Board, source: str, error: NvmlError) -> None:
        reason, hint = f"this GPU or driver does not support it: {error}", error.hint
        if error.hint:
            # The driver was not asked.
            reason = str(error)
        if error.code == NO_PERMISSION:
            reason, hint = f"the driver refuses it: {error}", PERMISSION_HINT
        if board.virtual:
            reason, hint = f"{VGPU_REASON} ({error})", VGPU_HINT
        elif board.mig:
            reason = f"{reason}; MIG is on, and an instance may not see its board"
        self.absent.append(Absence(board.component, source, reason, hint))


def discover_gpus(
    visible: str | None = None, device_order: str | None = None
) -> tuple[list[NvmlSensor], list[Absence]]:
    """Open the GPUs that these values of CUDA's variables allow, in CUDA's order.

    Returns:
        One sensor per GPU, and what is absent.
    """
    until_s = time.monotonic() + ANSWER_S
    try:
        boards = within(ANSWER_S, list_boards)
    except NvmlError as error:
        return [], [nvml_absence(error)]
    if not boards:
        return [], [Absence("gpu", "nvml", "the NVIDIA driver sees no GPU", NO_LIBRARY_HINT)]
    selection = visible_gpus(visible, [board.identity for board in boards], device_order)
    absences = []
    if selection.reason:
        hint = "unset CUDA_VISIBLE_DEVICES, or name GPUs that `nvidia-smi -L` lists"
        absences.append(Absence("gpu", "nvml", selection.reason, hint))
    by_index = {board.identity.index: board for board in boards}
    sensors = []
    periods_s: dict[tuple[str, str], float | None] = {}
    for index in selection.indices:
        board = by_index[index]
        try:
            limit_s = max(until_s - time.monotonic(), LEAST_ANSWER_S)
            sensor = within(limit_s, partial(NvmlSensor, board, periods_s))
        except NvmlError as error:
            hint = PERMISSION_HINT if error.code == NO_PERMISSION else error.hint
            absences.append(
                Absence(board.component, "nvml", f"cannot open this GPU: {error}", hint)
            )
            continue
        absences += sensor.absent
        if sensor.channels:
            noted = [_with_note(channel, selection.note) for channel in sensor.channels]
            sensor.channels, unreadable = calibrated(noted, board.identity.uuid)
            absences += [one for one in unreadable if one not in absences]
            sensors.append(sensor)
        else:
            sensor.close()
    for sensor in sensors:
        with contextlib.suppress(NvmlError):
            within(LEAST_ANSWER_S, partial(sensor.spare_processor, len(sensors)))
    return sensors, absences


def visible_components(visible: str | None, device_order: str | None) -> list[str] | None:
    """Name the GPUs that these values of CUDA's variables allow, in CUDA's order.

    Returns:
        For example ``["gpu:2", "gpu:0"]``; ``None`` if the driver does not answer.
    """
    try:
        boards = within(JOIN_ANSWER_S, list_boards)
    except NvmlError:
        return None
    selection = visible_gpus(visible, [board.identity for board in boards], device_order)
    return [f"gpu:{index}" for index in selection.indices]


def list_boards() -> list[Board]:
    """List all GPUs of this machine by NVML index, which is PCI bus order.

    One that is lost or refused is there without a UUID.

    Raises:
        NvmlError: There is no driver, or it refuses.
    """
    call("nvmlInit")
    try:
        return [_board(index) for index in range(call("nvmlDeviceGetCount"))]
    finally:
        call("nvmlShutdown")


def nvml_absence(error: NvmlError) -> Absence:
    """Explain why NVML as a whole is missing."""
    if error.code == LIBRARY_NOT_FOUND:
        vendors = (system_root() / "bus/pci/devices").glob("*/vendor")
        if not any(vendor.read_text().strip() == NVIDIA_VENDOR for vendor in vendors):
            return Absence("gpu", "nvml", NO_GPU)
        reason = "there is no NVIDIA driver library (libnvidia-ml.so.1)"
        return Absence("gpu", "nvml", reason, NO_LIBRARY_HINT)
    hint = "check that `nvidia-smi` works; after a driver update, restart the machine"
    return Absence("gpu", "nvml", f"NVML does not start: {error}", error.hint or hint)


def _board(index: int) -> Board:
    try:
        handle = call("nvmlDeviceGetHandleByIndex", index)
        uuid = call("nvmlDeviceGetUUID", handle)
    except NvmlError:
        return Board(GpuIdentity(index=index, uuid=""), None, False)
    mode = _ask("nvmlDeviceGetMigMode", handle)
    mig = None if mode is None else mode[0] == MIG_ENABLED
    identity = GpuIdentity(
        index=index,
        uuid=uuid,
        mig_uuids=_mig_uuids(handle) if mig else (),
        model=_ask("nvmlDeviceGetName", handle) or "",
    )
    virtual = _ask("nvmlDeviceGetVirtualizationMode", handle) == VIRTUALIZATION_VGPU
    return Board(identity, mig, virtual)


def _ask(function: str, handle: Any) -> Any:
    """Call a function that not every driver, GPU and binding has; ``None`` without an answer."""
    try:
        return call(function, handle)
    except NvmlError:
        return None


def _mig_uuids(handle: Any) -> tuple[str, ...]:
    uuids = []
    for position in range(_ask("nvmlDeviceGetMaxMigDeviceCount", handle) or 0):
        try:
            instance = call("nvmlDeviceGetMigDeviceHandleByIndex", handle, position)
            uuids.append(call("nvmlDeviceGetUUID", instance))
        except NvmlError:
            # There is no such instance, or this process may not see it.
            continue
    return tuple(uuids)


def _of_module(scalar: Scalar) -> Scalar:
    """Make a source of a superchip that is not the GPU's alone one of its module.

    Processors and modules have the same numbers, as on boards with one or several superchips.
    """
    number = scalar.channel.component.partition(":")[2]
    contains = tuple(f"{kind}:{number}" for kind in ("gpu", "cpu", "dram"))
    channel = replace(
        scalar.channel, component=f"module:{number}", contains=contains, note=MODULE_NOTE
    )
    return replace(scalar, channel=channel)


def _with_note(channel: Channel, note: str) -> Channel:
    return replace(channel, note="; ".join(filter(None, (channel.note, note))))
