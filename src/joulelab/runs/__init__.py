"""One account of a job that ran as many processes, on one host or on several."""

from joulelab.runs.distributed_job import DistributedJob, HostRecording
from joulelab.runs.gather import gather

__all__ = ["DistributedJob", "HostRecording", "gather"]
