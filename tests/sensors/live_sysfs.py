"""RAPL counters that count: a thread advances the files of a powercap tree."""

import threading
import time

STEP_S = 0.004


class LiveRapl:
    """A powercap tree.

    Attributes:
        slowest_s: The longest time in which the files did not move: how late a reading may be.
    """

    def __init__(self, root):
        self.root = root
        self.slowest_s = 0.0
        self._counters = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self):
        self.count()
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()

    def zone(self, directory, name, power_w, *, start_j=1000.0, wrap_j=262_143.328850):
        """Make a counter of this power, which returns to 0 after ``wrap_j``."""
        path = self.root / "class" / "powercap" / directory
        path.mkdir(parents=True)
        (path / "name").write_text(name + "\n")
        (path / "max_energy_range_uj").write_text(f"{round(wrap_j * 1e6)}\n")
        self._counters[path / "energy_uj"] = [power_w, start_j, wrap_j, time.monotonic_ns()]
        return path / "energy_uj"

    def vanish(self, path):
        with self._lock:
            counter = self._counters.pop(path)
            path.unlink()
        return counter

    def come_back(self, path, counter):
        with self._lock:
            self._counters[path] = counter

    def reset(self, path):
        with self._lock:
            self._counters[path][1] = 0.0
            self._counters[path][3] = time.monotonic_ns()

    def count(self):
        """Bring the files up to now, however late the thread is."""
        with self._lock:
            for path, (power_w, start_j, wrap_j, since_ns) in self._counters.items():
                counted_j = start_j + power_w * (time.monotonic_ns() - since_ns) * 1e-9
                aside = path.with_suffix(".next")
                aside.write_text(f"{round(counted_j % wrap_j * 1e6)}\n")
                aside.replace(path)

    def _run(self):
        last_s = time.monotonic()
        while not self._stop.wait(STEP_S):
            self.count()
            now_s = time.monotonic()
            self.slowest_s = max(self.slowest_s, now_s - last_s)
            last_s = now_s
