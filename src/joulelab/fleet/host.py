"""What runs on a host of an engine: one share, in a temporary directory of that host."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType

import msgspec

from joulelab.storage import in_use, remove_abandoned
from joulelab.study.plan import Plan
from joulelab.study.share import Report, Share, run_share
from joulelab.study.store import StudyStore, pack_run

TEMPORARY = "joulelab-share-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """All that a host needs to run a share."""

    plan: Plan
    share: Share
    # The working directory of the user, whose models are imported from there; it is not used where
    # it does not exist.
    directory: Path


class Stopped(BaseException):
    """The engine takes the host away: the job is cancelled, preempted, or at its time limit."""


def encode(report: Report) -> bytes:
    """Write a report as bytes."""
    return msgspec.msgpack.encode(report)


def decode(data: bytes) -> Report:
    """Read a report.

    Raises:
        msgspec.DecodeError: It is not one.
    """
    return msgspec.msgpack.decode(data, type=Report)


def run_job(job: Job, host: str, is_wanted: Callable[[], bool] = lambda: True) -> Iterator[bytes]:
    """Run a share and yield its reports, which contain the directories of the finished runs.

    A signal by which engines take a host away ends it with a report that says so.
    """
    for number in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, _stop)
    if job.directory.is_dir():
        os.chdir(job.directory)
    remove_abandoned(TEMPORARY)
    with tempfile.TemporaryDirectory(prefix=TEMPORARY) as temporary, ExitStack() as stack:
        stack.callback(os.close, in_use(Path(temporary)))
        study = Path(temporary) / "study"
        try:
            with StudyStore(study, job.plan.to_dict()) as store:
                reports = run_share(store, job.plan, job.share, host=host, is_wanted=is_wanted)
                with closing(reports):
                    for report in reports:
                        yield encode(_with_directory(report, study))
        except Stopped as stopped:
            text = f"{host} was taken away ({stopped})"
            yield encode(Report(share=job.share.name, kind="ended", host=host, text=text))
        finally:
            log = study / "worker.log"
            if log.exists():
                sys.stderr.write(log.read_text(encoding="utf-8", errors="replace"))


def _with_directory(report: Report, study: Path) -> Report:
    if report.kind != "record":
        return report
    return replace(report, packed=pack_run(study / "runs" / report.run_id))


def _stop(number: int, _: FrameType | None) -> None:
    raise Stopped(signal.Signals(number).name)
