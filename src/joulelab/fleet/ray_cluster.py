"""Ray as an engine: a task for each share, pinned to one node, whose generator yields reports.

Records travel as bytes, so that the nodes need no common file system.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from joulelab.errors import UserError, optional_packages
from joulelab.fleet.host import Job, decode, run_job
from joulelab.format import shorten
from joulelab.sensors.discovery import ENVIRONMENT as SENSORS_ENVIRONMENT
from joulelab.study.plan import FleetPlan, Plan
from joulelab.study.share import Report, Share
from joulelab.study.store import StudyStore
from joulelab.study.worker import Json

POLL_S = 0.5
"""Time between two scans of the nodes, and the longest one without a report."""

CONNECT_S = 10.0
"""A cluster at an address answers in this time."""

CANCEL_S = 30.0
"""A task that is cancelled has this long to end its worker, before Ray kills its process."""


_PASSED = (SENSORS_ENVIRONMENT, "PYTHONPATH")
"""Variables that hosts take over: the choice of sensors, and where the user's models are."""


@dataclass(frozen=True, slots=True)
class _Task:
    """A share on a node, and the reports that it yields."""

    share: Share
    host: str
    reports: Any


class RayEngine:
    """The nodes of a Ray cluster.

    Args:
        store: Not used; records come from :meth:`reports`.
        plan: The plan, whose table ``[fleet]`` has the address and the resources of a share.

    Raises:
        UserError: Ray is missing, or no cluster answers.
    """

    name = "ray"

    def __init__(self, store: StudyStore, plan: Plan) -> None:
        with optional_packages("cannot use Ray", "ray"):
            import ray  # noqa: PLC0415
        self._ray: Any = ray
        self._plan = plan
        self._excluded: set[str] = set()
        self._tasks: dict[str, _Task] = {}
        self._is_own = not ray.is_initialized()
        if self._is_own:
            _connect(ray, plan.fleet.address)

    def places(self) -> int:
        """Return the number of nodes that have the resources."""
        count = len(self._nodes())
        return min(count, self._plan.fleet.nodes or count)

    def _nodes(self) -> dict[str, Mapping[str, Any]]:
        """Return the nodes that can run a share, by name."""
        named = _named([node for node in self._ray.nodes() if node["Alive"]])
        return {
            name: node
            for name, node in named.items()
            if name not in self._excluded and _has_resources(node["Resources"], self._plan.fleet)
        }

    def start(self, share: Share) -> None:
        """Start a task on a node that has none."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy  # noqa: PLC0415

        busy = {task.host for task in self._tasks.values()}
        nodes = self._nodes()
        host = next((name for name in nodes if name not in busy), next(iter(nodes)))
        node = nodes[host]
        # A worker process that has had another working directory and signal handlers ends.
        task = self._ray.remote(num_returns="streaming", max_retries=0, max_calls=1)(run_on_node)
        job = Job(plan=self._plan, share=share, directory=Path.cwd())
        reports = task.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
            **_options(node["Resources"], self._plan.fleet),
        ).remote(job, host, {name: os.environ[name] for name in _PASSED if name in os.environ})
        self._tasks[share.name] = _Task(share, host, reports)

    def reports(self, on_phase: Callable[[Json], None]) -> Iterator[Report]:
        """Yield what tasks reported, and end shares whose node is gone."""
        if not self._tasks:
            return
        by_reports = {task.reports: task for task in self._tasks.values()}
        ready, _ = self._ray.wait([*by_reports], num_returns=1, timeout=POLL_S)
        for reports in ready:
            yield from self._next(by_reports[reports])

    def _next(self, task: _Task) -> Iterator[Report]:
        name = task.share.name
        try:
            report = decode(self._ray.get(next(task.reports)))
        except StopIteration:
            text = f"{task.host} ended the share early"
            report = Report(share=name, kind="ended", host=task.host, text=text)
        except self._ray.exceptions.RayError as error:
            text = f"{task.host} was lost ({shorten(_cause(error), 200)})"
            report = Report(share=name, kind="ended", host=task.host, text=text)
        if report.kind == "ended":
            self._tasks.pop(name, None)
        yield report

    def exclude(self, host: str) -> None:
        """Start no more tasks on a node."""
        self._excluded.add(host)

    def close(self) -> Iterator[Report]:
        """Cancel all tasks, yield what they reported, and leave the cluster."""
        for task in self._tasks.values():
            with contextlib.suppress(self._ray.exceptions.RayError):
                self._ray.cancel(task.reports)
        deadline_s = time.monotonic() + CANCEL_S
        while self._tasks and time.monotonic() < deadline_s:
            yield from self.reports(lambda event: None)
        if self._is_own:
            self._ray.shutdown()


def run_on_node(job: Job, host: str, environment: Mapping[str, str]) -> Iterator[bytes]:
    """Run a share in a task of Ray, and yield its reports.

    Args:
        job: What to run.
        host: Name of this node in records.
        environment: Variables of the process that runs the study.
    """
    os.environ.update(environment)
    yield from run_job(job, host)


def _connect(ray: Any, address: str) -> None:
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == "local":
        # Nothing of it is reachable from another host.
        options |= {"include_dashboard": False, "_node_ip_address": "127.0.0.1"}
    if address.startswith("ray://"):
        raise UserError(
            f"a study cannot run through {address}",
            why="Ray's client does not pass on reports",
            hint="run the command on a node of the cluster, or with `ray job submit`",
        )
    host, colon, port = address.rpartition(":")
    try:
        if colon and port.isdecimal():
            # Ray itself tries for minutes.
            socket.create_connection((host, int(port)), CONNECT_S).close()
        # Tasks without GPUs of Ray see those of their host; older versions warn unless it is set.
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        ray.init(address=address, **options)
    except Exception as error:
        raise UserError(
            f"no Ray cluster to connect to at {address!r}",
            why=shorten(str(error), 200),
            hint="start one with `ray start --head`, or set address in [fleet]",
        ) from error


def _named(nodes: list[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Name nodes after their host, and with digits of their id where several are on one host."""
    hosts = Counter(node["NodeManagerHostname"] for node in nodes)
    return {
        host if hosts[host] == 1 else f"{host}-{node['NodeID'][:6]}": node
        for node in nodes
        for host in [node["NodeManagerHostname"]]
    }


def _options(has: Mapping[str, float], fleet: FleetPlan) -> dict[str, Any]:
    """Return the options of a task that has a node, or a part of it, for itself."""
    default = {"CPU": 1.0}
    if fleet.exclusive:
        default = {name: has[name] for name in ("CPU", "GPU") if has.get(name)}
    wanted: dict[str, float] = default | fleet.resources
    special = {"CPU": "num_cpus", "GPU": "num_gpus", "memory": "memory"}
    return {
        **{special[name]: value for name, value in wanted.items() if name in special},
        "resources": {name: value for name, value in wanted.items() if name not in special},
    }


def _has_resources(has: Mapping[str, float], fleet: FleetPlan) -> bool:
    wanted = {"CPU": 1.0} | fleet.resources
    return all(
        has.get(name, 0.0) >= value or math.isclose(value, 0.0) for name, value in wanted.items()
    )


def _cause(error: Exception) -> str:
    """Return the first line of an error of Ray, whose class explains itself."""
    lines = click.unstyle(str(error)).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"
