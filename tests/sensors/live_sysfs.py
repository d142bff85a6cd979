"""RAPL counters that count, in a powercap tree."""

import time

from live_files import write_file


class LiveRapl:
    """A powercap tree, for processes that can read live files."""

    def __init__(self, root):
        self.root = root
        self._counters = {}

    def zone(self, directory, name, power_w, *, start_j=1000.0, wrap_j=262_143.328850):
        """Make a counter of this power, which returns to 0 after ``wrap_j``."""
        path = self.root / "class" / "powercap" / directory
        path.mkdir(parents=True)
        (path / "name").write_text(name + "\n")
        (path / "max_energy_range_uj").write_text(f"{round(wrap_j * 1e6)}\n")
        self._counters[path / "energy_uj"] = power_w, wrap_j
        self.reset(path / "energy_uj", start_j)
        return path / "energy_uj"

    def reset(self, path, start_j=0.0):
        """Let a counter start at this energy now."""
        power_w, wrap_j = self._counters[path]
        counted_j = f"({start_j} + {power_w} * (t_s - {time.monotonic()}))"
        write_file(path, f"=round({counted_j} % {wrap_j} * 1e6)")
