"""Give every reader damaged and invented files, and check what it makes of them.

``python -m benchmarks.faults.damaged_inputs --count 300000 --write`` reads that many files with
each reader in turn and writes the table to ``benchmarks/results``. One line names each file that
was not read as it should be; ``--reader NAME --only SEED`` repeats it.

A reader may give energies or raise a :class:`~joulelab.errors.JoulelabError`, within
:data:`LONGEST_S` of processor time and :data:`MOST_BYTES`. No energy is negative or infinite, and
none has an interval without a value or a value without an interval.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import json
import math
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import patch

from benchmarks.faults.mutations import BYTES, JSON, RARE, TABLES, Mutation
from joulelab.carbon.series import read_series
from joulelab.carbon.site import Site, local_costs, site_file
from joulelab.energy.baseline import Baseline
from joulelab.energy.energy import ComponentEnergy, Energy
from joulelab.energy.estimator import EnergyEstimator
from joulelab.errors import JoulelabError
from joulelab.findings.tables import StudyTables
from joulelab.forecast.sources import read_source
from joulelab.ledger.ledger import read_ledger
from joulelab.llm.power_source import PowerSource
from joulelab.llm.request_files import read_requests
from joulelab.logs.columns import LogOptions
from joulelab.logs.power_log import read_logs
from joulelab.logs.span_energies import ImportedSpan, energy_rows, read_spans
from joulelab.machine import Machine
from joulelab.predict.hardware_profile import load_profile
from joulelab.recording.span_blocks import Block, Row
from joulelab.recording.trace import read_trace
from joulelab.recording.trace_format import EVENTS_FILE, READINGS_FILE, RECORD_SIZE, RUN_FILE, pack
from joulelab.recording.trace_spans import Window
from joulelab.runs.record import read_run
from joulelab.runs.saved_baseline import baseline_file, load_baseline
from joulelab.runs.selection import open_runs
from joulelab.runs.study_runs import read_study
from joulelab.sensors.calibration import calibrated, calibrations_directory
from joulelab.sensors.sensor import Channel, Provenance, Quantity
from joulelab.sensors.simulated import SimulatedMachine
from joulelab.storage import ENVIRONMENT
from joulelab.study.plan_file import load_plan
from joulelab.watch.growing_trace import GrowingTrace

LONGEST_S, MOST_BYTES = 2.0, 300e6
HUNG_S = 20
THIS_MACHINE = cast("Machine", SimpleNamespace(identity="machine", host="", gpus=()))
ADDRESS_SPACE_BYTES = 8 << 30
RARELY = 0.01
"""Share of inputs that are nested deeply or gzip bombs."""
SOUND = Path(__file__).parent / "sound"
REPOSITORY = Path(__file__).parents[2]
RECORDED = REPOSITORY / "tests" / "golden" / "inputs"
LOGS = REPOSITORY / "tests" / "logs" / "data" / "formats"
REQUESTS = REPOSITORY / "tests" / "llm" / "data"
PROFILE = REPOSITORY / "src" / "joulelab" / "predict" / "profiles" / "h100.json"
RESULTS = Path(__file__).parents[1] / "results"


class WrongEnergy(Exception):
    """An energy that cannot be, or an interval that does not fit its value."""


class Hung(BaseException):
    """A reader did not come to an end. No reader may catch it."""


@dataclass(frozen=True)
class Reader:
    """A reader of files: how they are damaged, and what is made of them."""

    name: str  # For the table.
    mutations: Sequence[Mutation]  # Ways to damage its files.
    files: Sequence[Path]  # Sound files; one is damaged each time.
    # Reads the damaged file (its path and the sound one's), and everything made of it.
    read: Callable[[Path, Path], None]
    weight: float = 1.0  # How often it is drawn.


@dataclass
class Tally:
    """What became of the inputs of one reader."""

    inputs: int = 0
    read: int = 0
    refused: int = 0
    longest_s: float = 0.0
    most_bytes: float = 0.0
    wrong: list[str] = field(default_factory=list)


def check(energy: Energy | ComponentEnergy, what: str = "energy") -> None:
    """Raise if an energy is impossible."""
    parts = energy.components.values() if isinstance(energy, Energy) else ()
    for part in parts:
        check(part, part.component)
    check_values(what, energy.gross_j, *energy.interval_j)
    for value in (energy.net_j, energy.idle_j, *energy.net_interval_j):
        if math.isinf(value):
            raise WrongEnergy(f"{what}: infinite net or idle energy")


def check_values(what: str, value: float | None, low: float | None, high: float | None) -> None:
    """Raise if a gross energy is impossible."""
    value, low, high = (math.nan if one is None else one for one in (value, low, high))
    if math.isinf(value) or math.isinf(low) or math.isinf(high):
        raise WrongEnergy(f"{what}: infinite ({value}, {low}, {high})")
    if value < 0:
        raise WrongEnergy(f"{what}: negative ({value})")
    if not math.isnan(value) == math.isnan(low) == math.isnan(high):
        raise WrongEnergy(f"{what}: an interval without value ({value}, {low}, {high})")
    if not math.isnan(value) and not low <= value <= high:
        raise WrongEnergy(f"{what}: {value} is not between {low} and {high}")


class Place:
    """A directory with sound files of every kind, a copy of which gets the damaged one."""

    def __init__(self, root: Path) -> None:
        self.root, self.work = root, root / "work"
        os.environ[ENVIRONMENT] = str(root / "home")
        for path in ("home/calibrations", "work", "sound"):
            (root / path).mkdir(parents=True)

    def readers(self) -> list[Reader]:
        traces = sorted(path for path in (RECORDED / "traces").iterdir() if path.is_dir())
        traces.append(_with_columns(self, RECORDED / "traces" / "nested_spans"))
        jobs = sorted((RECORDED / "jobs").rglob(RUN_FILE))
        studies = sorted((RECORDED / "studies").rglob(RUN_FILE))
        readings = [path / READINGS_FILE for path in traces]
        shutil.copytree(RECORDED / "jobs", self.root / "ledger")
        return [
            Reader("trace header", (_of_header, *JSON), readings, self._trace, 2),
            Reader("readings", (*BYTES, *[_strange_record] * 4), readings, self._trace, 2),
            Reader("watched readings", (*BYTES, *[_strange_record] * 4), readings, self._watched),
            Reader("events", JSON, [path / EVENTS_FILE for path in traces], self._trace, 2),
            Reader("run.json", JSON, jobs, self._run, 2),
            Reader("run.json in a ledger", JSON, jobs, self._ledger, 0.2),
            Reader("run.json of a study", JSON, studies, self._run, 2),
            Reader("study", JSON, studies, self._study, 0.1),
            Reader("plan", TABLES, [SOUND / "plan.toml"], self._plan),
            Reader("idle.json", JSON, [SOUND / "idle.json"], self._idle),
            Reader("calibration", JSON, [SOUND / "k.json"], self._calibration),
            Reader("hardware profile", JSON, [PROFILE], self._profile),
            Reader("site.toml", TABLES, [SOUND / "site.toml"], self._site),
            Reader("carbon intensity", TABLES, [SOUND / "grid.csv"], self._carbon),
            Reader("spans of a log", TABLES, [SOUND / "spans.csv"], self._spans),
            Reader("power log", TABLES, [*_small_logs(self), *_formats()], self._log, 2),
            Reader("requests", TABLES, [SOUND / "requests.csv"], self._requests),
            Reader("requests of load generators", JSON, _request_logs(), self._requests),
            Reader("forecast table", TABLES, [SOUND / "run.csv"], self._forecast),
        ]

    def _watched(self, path: Path, original: Path) -> None:
        shutil.copy(original.parent / EVENTS_FILE, path.with_name(EVENTS_FILE))
        snapshot = GrowingTrace(path.parent).poll(final=True)
        for energy in filter(None, (snapshot.settled, snapshot.view.energy)):
            check(energy)
        snapshot.view.to_json()

    def _trace(self, path: Path, original: Path) -> None:
        for name in {READINGS_FILE, EVENTS_FILE} - {path.name}:
            shutil.copy(original.parent / name, path.with_name(name))
        trace = read_trace(path.parent)
        saved = original.parent / "baseline.json"
        points = json.loads(saved.read_bytes()) if saved.exists() else []
        spans = [span.window for span in trace.finished_spans][:100]
        last_ns = max((int(one.t_ns[-1]) for one in trace.series if one.t_ns.size), default=0)
        windows = [*spans, Window(last_ns - min(last_ns, 10**9), last_ns)]
        estimator = EnergyEstimator(trace, Baseline.from_json(points))
        for energy in (*estimator.energies(windows), estimator.total(windows)):
            check(energy)
            str(energy)

    def _run(self, path: Path, original: Path) -> None:
        _check_run(read_run(path.parent))

    def _ledger(self, path: Path, original: Path) -> None:
        errors: list[JoulelabError] = []
        shutil.copy(path, self.root / "ledger" / original.relative_to(RECORDED / "jobs"))
        try:
            for key in ("project", "month"):
                ledger = read_ledger([self.root / "ledger"], by=key, on_error=errors.append)
                json.dumps(ledger.to_json(), allow_nan=False)
            for run in open_runs(self.root / "ledger", on_error=errors.append):
                _check_run(run)
        finally:
            shutil.copy(original, self.root / "ledger" / original.relative_to(RECORDED / "jobs"))
        if len(list(open_runs(self.root / "ledger"))) < 2:
            raise WrongEnergy("the other runs are lost")

    def _study(self, path: Path, original: Path) -> None:
        study = self.root / "study"
        shutil.rmtree(study, ignore_errors=True)
        shutil.copytree(original.parents[2], study)
        shutil.copy(path, study / original.relative_to(original.parents[2]))
        for run in read_study(study).runs:
            _check_run(run)
        StudyTables.read([study])

    def _plan(self, path: Path, original: Path) -> None:
        load_plan(path)

    def _idle(self, path: Path, original: Path) -> None:
        shutil.copy(path, baseline_file())
        baseline = load_baseline(lambda: THIS_MACHINE)
        source = SimulatedMachine.default().sources[0]
        power_w, off_w = (
            (math.nan, 0.0) if baseline is None else baseline.power(source.component, "sim", 5.0)
        )
        if math.isinf(power_w) or power_w < 0 or math.isinf(off_w):
            raise WrongEnergy(f"idle power {power_w}, {off_w}")

    def _calibration(self, path: Path, original: Path) -> None:
        shutil.copy(path, calibrations_directory() / "k.json")
        (channel,), _ = calibrated([_CHANNEL], "GPU-a")
        if not (channel.gain > 0 and math.isfinite(channel.offset_w)):
            raise WrongEnergy(f"gain {channel.gain}")

    def _profile(self, path: Path, original: Path) -> None:
        load_profile(str(path))

    def _site(self, path: Path, original: Path) -> None:
        shutil.copy(path, site_file())
        costs = local_costs(Energy(duration_s=1.0), started_unix_s=1.7e9, stopped_unix_s=1.7e9)
        if math.isinf(costs.carbon_g):
            raise WrongEnergy("infinite carbon")
        Site.configured()

    def _carbon(self, path: Path, original: Path) -> None:
        series = read_series(path)
        str(series)
        start_s, stop_s = series.edge_unix_s[0], series.edge_unix_s[-1]
        if not series.missing(start_s, stop_s) and not series.mean(start_s, stop_s) >= 0:
            raise WrongEnergy("negative intensity")

    def _spans(self, path: Path, original: Path) -> None:
        log = read_logs([SOUND / "power.csv"])
        _check_rows(energy_rows(log, read_spans(path)))

    def _log(self, path: Path, original: Path) -> None:
        log = read_logs([path], LogOptions())
        runs = log.runs or (("whole log", log.start_s, log.stop_s),)
        _check_rows(energy_rows(log, [ImportedSpan(*run) for run in runs]))

    def _requests(self, path: Path, original: Path) -> None:
        requests = read_requests(path)
        source = PowerSource.of_log(read_logs([SOUND / "power.csv"]))
        placed = source.place(requests, source.extent_s[0] - requests.window_s[0])
        for i, name in enumerate(placed.request):
            start_s, first_s, stop_s = (
                float(times[i]) for times in (placed.start_s, placed.first_token_s, placed.stop_s)
            )
            is_whole = 0 <= stop_s - start_s < math.inf and 0 <= placed.output_tokens[i] < math.inf
            if not is_whole or first_s < start_s or first_s > stop_s:
                raise WrongEnergy(f"{name}: {start_s}, {first_s}, {stop_s}")

    def _forecast(self, path: Path, original: Path) -> None:
        forecast = read_source(path).profile.forecast(100)
        for quantity in ("energy_j", "duration_s"):
            value = getattr(forecast, quantity, math.nan)
            if isinstance(value, float) and (math.isinf(value) or value < 0):
                raise WrongEnergy(f"forecast: {quantity} {value}")
        json.dumps(forecast.to_json())


def _check_run(run: Any) -> None:
    check(run.energy)
    str(run.energy)
    for span in run.spans:
        check_values(span.name, span.gross_j, span.low_j, span.high_j)
    if run.study is not None:
        for part in (*run.study.results.values(), *run.study.epochs, *run.study.spans):
            check(part.energy)


def _check_rows(rows: Iterable[dict[str, Any]]) -> None:
    for row in rows:
        check_values(row["name"], row["gross_j"], row["low_j"], row["high_j"])


_CHANNEL = Channel(
    component="gpu:0",
    source="nvml.samples",
    quantity=Quantity.POWER,
    provenance=Provenance.MEASURED,
    update_period_s=0.1,
)


# Sound files.


def _small_logs(place: Place) -> list[Path]:
    found = [SOUND / "power.csv"]
    for path in sorted((RECORDED / "logs").glob("*.gz")):
        with gzip.open(path, "rt") as file:
            lines = [line for line, _ in zip(file, range(200), strict=False)]
        found.append(place.root / "sound" / path.stem)
        found[-1].write_text("".join(lines))
    return found


def _formats() -> list[Path]:
    return [path for path in sorted(LOGS.iterdir()) if path.stat().st_size < 10_000]


def _request_logs() -> list[Path]:
    """Return logs of load generators that can be read."""
    return sorted(path for path in REQUESTS.glob("*.json*") if "without" not in path.name)


def _with_columns(place: Place, trace: Path) -> Path:
    """Copy a trace, and write its spans as this version does: many in columns."""
    copy = place.root / "sound" / "columns"
    shutil.copytree(trace, copy)
    spans = read_trace(trace).finished_spans
    rows: list[Row] = [
        (index, None, span.thread, span.name, {"index": index, "loss": 0.5, "phase": "train"},
         span.start_ns, span.stop_ns)
        for index, span in enumerate(list(spans) * 40)
    ]  # fmt: skip
    with (copy / EVENTS_FILE).open("ab") as file:
        for first in range(0, len(rows), 50):
            file.write(Block.of(7, rows[first : first + 50]).line() or b"")
    return copy


# Damage of traces.


def _of_header(rng: random.Random, data: bytes) -> bytes:
    """Damage only the header; half of the time as an earlier version wrote it."""
    line, _, rest = data.partition(b"\n")
    return rng.choice(JSON)(rng, line).replace(b"\n", b" ") + b"\n" + rest


def _strange_record(rng: random.Random, data: bytes) -> bytes:
    """Write whole records of strange values."""
    begin = data.find(b"\n") + 1
    records = [data[i : i + RECORD_SIZE] for i in range(begin, len(data), RECORD_SIZE)]
    for _ in range(rng.choice((1, 3, 50))):
        at = rng.randrange(len(records) + 1)
        t_ns = int.from_bytes(records[max(at - 1, 0)][:8], "little", signed=True)
        t_ns = rng.choice((t_ns, t_ns, t_ns, 0, -1, 2**62, 2**63 - 1, t_ns + 10**13, t_ns - 10**9))
        value = rng.choice(
            (0.0, -0.0, -1.0, -1e6, 1e6, 1e12, 1e15, 1e300, -1e300, math.inf, -math.inf, math.nan)
        )
        channel = rng.choice((0, 0, 0, 1, 2, 2**32 - 1))
        records.insert(at, pack(max(-(2**63), min(t_ns, 2**63 - 1)), value, channel))
    return data[:begin] + b"".join(records)


# The campaign.


def run(
    count: int, seed: int, names: Sequence[str] = (), only: int | None = None
) -> dict[str, Tally]:
    """Read ``count`` damaged files; return a tally for each reader."""
    with tempfile.TemporaryDirectory() as directory, patch.dict(os.environ):
        place = Place(Path(directory))
        readers = [one for one in place.readers() if not names or one.name in names]
        total = sum(reader.weight for reader in readers)
        tallies: dict[str, Tally] = {}
        for reader in readers:
            tally = tallies[reader.name] = Tally()
            _read_sound(place, reader)
            share = round(count * reader.weight / total)
            for number in range(share) if only is None else [only]:
                _read_one(place, reader, f"{seed}/{reader.name}/{number}", number, tally)
    return tallies


def _read_sound(place: Place, reader: Reader) -> None:
    """Read the first sound file, which must not be refused."""
    original = reader.files[0]
    path = _write(place, original, original.read_bytes())
    reader.read(path, original)


def _write(place: Place, original: Path, data: bytes) -> Path:
    shutil.rmtree(place.work)
    path = place.work / original.parent.name / original.name
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
    return path


def _read_one(place: Place, reader: Reader, key: str, number: int, tally: Tally) -> None:
    rng = random.Random(key)
    original = rng.choice(reader.files)
    rare = rng.random() < RARELY
    mutation = rng.choice(RARE if rare else reader.mutations)
    path = _write(place, original, mutation(rng, original.read_bytes()))
    tally.inputs += 1
    before_bytes = _reset_peak()
    start_s = time.process_time()
    try:
        with _limit():
            reader.read(path, original)
        tally.read += 1
    except JoulelabError as error:
        tally.refused += 1
        if "\n" in str(error):
            tally.wrong.append(f"{number} {mutation.__name__}: several lines: {error}")
    except (Hung, Exception) as error:  # noqa: BLE001  (that is what it looks for)
        frames = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in frames if "joulelab" in frame.filename] or frames
        where = f"{Path(own[-1].filename).name}:{own[-1].lineno}"
        text = f"{type(error).__name__} at {where}: {error}"
        tally.wrong.append(f"{number} {mutation.__name__}: {text[:200]}")
    took_s, took_bytes = time.process_time() - start_s, _peak_bytes() - before_bytes
    tally.longest_s = max(tally.longest_s, took_s)
    tally.most_bytes = max(tally.most_bytes, took_bytes)
    if took_s > LONGEST_S or took_bytes > MOST_BYTES:
        tally.wrong.append(
            f"{number} {mutation.__name__}: {took_s:.1f} s and {took_bytes / 1e6:.0f} MB"
        )


@contextlib.contextmanager
def _limit() -> Iterator[None]:
    def hung(_signal: int, _frame: Any) -> None:
        raise Hung(f"longer than {HUNG_S} s")

    before, left = signal.signal(signal.SIGALRM, hung), signal.setitimer(signal.ITIMER_REAL, HUNG_S)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *left)
        signal.signal(signal.SIGALRM, before)


def _reset_peak() -> float:
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return _peak_bytes()


def _peak_bytes() -> float:
    text = Path("/proc/self/status").read_text()
    return int(text.partition("VmHWM:")[2].split()[0]) * 1024


def table(tallies: Mapping[str, Tally]) -> str:
    """Format what became of the inputs as a table."""
    lines = [
        "| reader | inputs | read | refused | wrong | longest (s) | most memory (MB) |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, one in tallies.items():
        lines.append(
            f"| {name} | {one.inputs:,} | {one.read:,} | {one.refused:,} | {len(one.wrong):,} | "
            f"{one.longest_s:.2f} | {one.most_bytes / 1e6:.0f} |"
        )
    sums = [
        sum(getattr(one, name) for one in tallies.values())
        for name in ("inputs", "read", "refused")
    ]
    wrong = sum(len(one.wrong) for one in tallies.values())
    return "\n".join([*lines, f"| all | {sums[0]:,} | {sums[1]:,} | {sums[2]:,} | {wrong:,} | | |"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=20_000, help="number of inputs")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--reader", action="append", default=[], help="only this reader")
    parser.add_argument("--only", type=int, help="only the input of this number")
    parser.add_argument("--write", action="store_true", help="save the table")
    options = parser.parse_args()
    start_s = time.perf_counter()
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE_BYTES, resource.RLIM_INFINITY))
    tallies = run(options.count, options.seed, options.reader, options.only)
    for name, tally in tallies.items():
        for wrong in tally.wrong:
            print(f"{name}: {wrong}", file=sys.stderr)
    text = table(tallies)
    print(text)
    if options.write:
        command = f"python -m benchmarks.faults.damaged_inputs --count {options.count} --write"
        took = f"{(time.perf_counter() - start_s) / 60:.0f} min"
        date = time.strftime("%Y-%m-%d")
        head = f"# Damaged and invented inputs\n\n{date}, seed {options.seed}, {took}: `{command}`"
        (RESULTS / f"{date}-damaged-inputs.md").write_text(f"{head}\n\n{text}\n")
    sys.exit(any(tally.wrong for tally in tallies.values()))


if __name__ == "__main__":
    main()
