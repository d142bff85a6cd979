"""One account of a job that ran as many processes, on one host or on several."""

from joulelab.distributed.gather import gather
from joulelab.distributed.job import DistributedJob, HostRecording

__all__ = ["DistributedJob", "HostRecording", "gather"]
