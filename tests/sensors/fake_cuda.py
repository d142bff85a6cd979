"""A stand-in for torch.cuda: a device that lags behind the host, with a clock that drifts."""

import itertools
import sys
import time
import types

LAG_NS = 5_000_000


class FakeCuda:
    """One device. Work on its stream is finished ``lag_ns`` after it was queued.

    Args:
        drift: Relative drift of the device's clock.
        lag_ns: How far the device is behind the host.
    """

    def __init__(self, drift=0.0, lag_ns=LAG_NS):
        self.drift = drift
        self.lag_ns = lag_ns
        self._started = True
        self._queued = []
        self.capturing = False
        self.error = None
        self.events = 0
        self.recorded = self.queries = self.distances = 0
        self.work = types.SimpleNamespace(cuda_stream=0)
        self.raw = 0
        self.Event = lambda enable_timing: FakeEvent(self)
        ids = itertools.count(1)
        self.Stream = lambda device: types.SimpleNamespace(cuda_stream=next(ids), own=True)

    @property
    def started(self):
        return self._started

    @started.setter
    def started(self, started):
        while started and self._queued:
            self._queued.pop(0)()
        self._started = started

    def _lazy_call(self, call):
        """As in PyTorch: what is queued is called within the start of CUDA, before it is said."""
        if self.started:
            call()
        else:
            self._queued.append(call)

    @property
    def _initialized(self):
        return self.started

    def is_initialized(self):
        return self.started

    def current_device(self):
        return 0

    def current_stream(self, device):
        return types.SimpleNamespace(cuda_stream=self.raw)

    def is_current_stream_capturing(self):
        return self.capturing

    def binding(self, **further):
        """What stands for ``torch._C``."""
        return types.SimpleNamespace(
            _cuda_getCurrentRawStream=lambda device: self.raw, _CudaEventBase=FakeEvent, **further
        )

    def install(self, monkeypatch):
        torch = types.SimpleNamespace(cuda=self, _C=self.binding())
        monkeypatch.setitem(sys.modules, "torch", torch)
        monkeypatch.setitem(sys.modules, "torch.cuda", self)
        return self


class FakeEvent:
    def __init__(self, cuda):
        self._cuda = cuda
        cuda.events += 1
        self.host_ns = None

    def record(self, stream):
        self._check()
        self._cuda.recorded += 1
        own = getattr(stream, "own", False)
        self.host_ns = time.monotonic_ns() + (0 if own else self._cuda.lag_ns)

    def query(self):
        self._check()
        self._cuda.queries += 1
        return self.is_reached()

    def is_reached(self):
        return time.monotonic_ns() >= self.host_ns

    def synchronize(self):
        self._check()
        while not self.is_reached():
            pass

    def elapsed_time(self, other):
        self._check()
        assert self.is_reached()
        assert other.is_reached()
        self._cuda.distances += 1
        return (other.host_ns - self.host_ns) * (1 + self._cuda.drift) / 1e6

    def _check(self):
        if self._cuda.error:
            raise RuntimeError(self._cuda.error)
