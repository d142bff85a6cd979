"""A real Slurm with two nodes on this machine, on loopback; needs root and Debian's packages."""

import os
import shutil
import socket
import subprocess
from contextlib import suppress
from pathlib import Path

import psutil
from waiting import wait_for

PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch")

CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={directory}/munge.socket
StateSaveLocation={directory}/state
SlurmdSpoolDir={directory}/spool_%n
SlurmctldPidFile={directory}/controller.pid
SlurmdPidFile={directory}/%n.pid
SlurmctldLogFile={directory}/controller.log
SlurmdLogFile={directory}/%n.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
ReturnToService=2
MpiDefault=none
SwitchType=switch/none
SlurmdTimeout=6
KillWait=5
SchedulerParameters=sched_interval=1,sched_min_interval=0
GresTypes=gpu
{nodes}
PartitionName=all Nodes={names} Default=YES State=UP
"""


def why_not() -> str:
    """Why there can be no cluster here; empty if there can."""
    missing = [name for name in PROGRAMS if shutil.which(name, path=_path()) is None]
    if missing:
        return f"{missing[0]} is not installed: apt-get install slurm-wlm munge"
    return "" if os.getuid() == 0 else "a Slurm of its own needs root"


class SlurmCluster:
    """The daemons; use as a context manager, which leaves none of them behind."""

    nodes = ("n1", "n2")

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.environment = {"SLURM_CONF": str(directory / "slurm.conf"), "PATH": _path()}
        self._daemons: dict[str, subprocess.Popen] = {}

    def __enter__(self):
        (self.directory / "state").mkdir(parents=True)
        host = os.uname().nodename.partition(".")[0]
        port, *node_ports = _free_ports(1 + len(self.nodes))
        nodes = [
            f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port_of_node} "
            "CPUs=2 RealMemory=1000 Gres=gpu:2"
            for name, port_of_node in zip(self.nodes, node_ports, strict=True)
        ]
        text = CONFIGURATION.format(
            host=host,
            port=port,
            directory=self.directory,
            nodes="\n".join(nodes),
            names=",".join(self.nodes),
        )
        (self.directory / "slurm.conf").write_text(text)
        # Slurm only needs files that exist, not GPUs.
        devices = [
            f"NodeName={name} Name=gpu File={file}\n"
            for name in self.nodes
            for file in ("/dev/null", "/dev/zero")
        ]
        (self.directory / "gres.conf").write_text("".join(devices))
        try:
            key = self.directory / "munge.key"
            key.write_bytes(os.urandom(128))
            key.chmod(0o600)
            files = {
                "key-file": key,
                "socket": self.directory / "munge.socket",
                "pid-file": self.directory / "munge.pid",
                "log-file": self.directory / "munge.log",
                "seed-file": self.directory / "munge.seed",
            }
            options = [f"--{name}={path}" for name, path in files.items()]
            self._start("munged", "--foreground", "--force", *options)
            wait_for((self.directory / "munge.socket").exists, what="munged")
            self._start("slurmctld", "-D")
            for name in self.nodes:
                self.start_node(name)
            self.wait_until_idle()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        with suppress(AssertionError, subprocess.TimeoutExpired):
            self.ask("scancel", "--user=root")
            wait_for(lambda: not self.jobs(), what="the end of the jobs", patience_s=15.0)
        for daemon in self._daemons.values():
            daemon.terminate()
        for daemon in self._daemons.values():
            try:
                daemon.wait(5)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        for process in self._own():
            process.kill()

    def _own(self):
        """All that runs for this cluster, which has its configuration in the environment."""
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                is_own = process.environ().get("SLURM_CONF") == self.environment["SLURM_CONF"]
                if is_own and process.pid != os.getpid():
                    yield process

    def jobs(self):
        """The states of the jobs that have not ended."""
        return self.ask("squeue", "--noheader", "--format=%T").split()

    def _env(self):
        return os.environ | self.environment

    def _start(self, *command, name=""):
        log = (self.directory / f"{name or command[0]}.out").open("ab")
        self._daemons[name or command[0]] = subprocess.Popen(
            command, env=self._env(), stdout=log, stderr=log, stdin=subprocess.DEVNULL
        )
        log.close()

    def start_node(self, name):
        self._start("slurmd", "-D", "-N", name, name=name)

    def kill_daemon(self, name):
        """Kill the slurmd of a node; its jobs live on until it returns."""
        self._daemons[name].kill()
        self._daemons[name].wait()

    def kill_node(self, name):
        """Kill all that runs on a node, as a power cut does."""
        jobs = self.ask("squeue", "--noheader", f"--nodelist={name}", "--format=%i").split()
        self.kill_daemon(name)
        for process in self._own():
            with suppress(psutil.Error):
                is_keeper = process.name() == "slurmstepd" and any(
                    f"[{job}." in " ".join(process.cmdline()) for job in jobs
                )
                if is_keeper or process.environ().get("SLURMD_NODENAME") == name:
                    process.kill()

    def wait_until_idle(self):
        wait_for(lambda: {*self.states().values()} == {"idle"}, what="idle nodes")

    def states(self):
        output = self.ask("sinfo", "--noheader", "--Node", "--format=%N %T")
        return dict(line.split() for line in output.splitlines())

    def ask(self, *command):
        done = subprocess.run(
            command, env=self._env(), capture_output=True, text=True, timeout=60, check=False
        )
        return done.stdout


def _free_ports(number):
    """Return ports that no other program listens on, for example another Slurm for tests."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _path():
    return f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
