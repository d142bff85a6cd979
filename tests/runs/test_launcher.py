"""What launchers set in the environment, as their manuals and their processes have it."""

import pytest

from joulelab.recording.launcher import Launch, current_launch

TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "run",
    "MASTER_ADDR": "node0",
    "MASTER_PORT": "29400",
    "RANK": "5",
    "LOCAL_RANK": "1",
    "WORLD_SIZE": "8",
    "GROUP_RANK": "1",
    "GROUP_WORLD_SIZE": "2",
}
LIGHTNING = {
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "41231",
    "NODE_RANK": "0",
    "LOCAL_RANK": "1",
    "WORLD_SIZE": "2",
}
SLURM = {
    "SLURM_JOB_ID": "77",
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_NODEID": "1",
    "SLURM_STEP_NUM_NODES": "2",
}
OPENMPI = {
    "PMIX_NAMESPACE": "prterun-node0-99@1",
    "PMIX_RANK": "2",
    "OMPI_COMM_WORLD_RANK": "2",
    "OMPI_COMM_WORLD_LOCAL_RANK": "2",
    "OMPI_COMM_WORLD_SIZE": "4",
}
MPICH = {"PMI_RANK": "1", "PMI_SIZE": "2", "MPI_LOCALRANKID": "1", "PMI_FD": "8"}


@pytest.mark.parametrize(
    ("environ", "launcher", "rank", "local_rank", "world_size", "node", "nodes"),
    [
        (TORCHRUN, "torchrun", 5, 1, 8, 1, 2),
        (LIGHTNING, "torchrun", None, 1, 2, 0, None),
        (SLURM, "slurm", 3, 1, 4, 1, 2),
        (OPENMPI, "openmpi", 2, 2, 4, None, None),
        ({"PMIX_NAMESPACE": "n", "PMIX_RANK": "7"}, "pmix", 7, None, None, None, None),
        (MPICH, "mpich", 1, 1, 2, None, None),
    ],
)
def test_each_launcher_is_recognized(environ, launcher, rank, local_rank, world_size, node, nodes):
    launch = current_launch(environ)
    assert launch == Launch(
        launcher=launcher,
        job=launch.job,
        agent=launch.agent,
        rank=rank,
        local_rank=local_rank,
        world_size=world_size,
        node=node,
        nodes=nodes,
    )
    assert Launch(**launch.to_json()) == launch


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"RANK": "0", "WORLD_SIZE": "4"},
        {**TORCHRUN, "WORLD_SIZE": "1"},
        {**TORCHRUN, "WORLD_SIZE": "many"},
        {"SLURM_JOB_ID": "77", "SLURM_PROCID": "0", "SLURM_NTASKS": "8"},
        {**SLURM, "SLURM_STEP_NUM_TASKS": "1"},
        {**MPICH, "PMI_SIZE": "1"},
        {**OPENMPI, "OMPI_COMM_WORLD_SIZE": "1"},
    ],
)
def test_a_process_that_was_started_alone_has_no_launch(environ):
    assert current_launch(environ) is None


def test_the_outer_launcher_names_the_job_and_the_inner_one_the_rank():
    ranks = [
        current_launch({**SLURM, "SLURM_STEP_NUM_TASKS": "2", **TORCHRUN, "RANK": str(rank)})
        for rank in (4, 5)
    ]
    assert {launch.launcher for launch in ranks} == {"slurm"}
    assert len({launch.job for launch in ranks}) == 1
    assert [launch.rank for launch in ranks] == [4, 5]
    assert current_launch({**SLURM, **LIGHTNING}).rank == 3


def test_jobs_of_one_launcher_have_different_names():
    def job(environ, **changes):
        return current_launch({**environ, **changes}).job

    assert job(TORCHRUN) != job(TORCHRUN, MASTER_PORT="29401")
    assert job(SLURM) != job(SLURM, SLURM_STEP_ID="1")
    assert job(SLURM) == job(SLURM, SLURM_PROCID="0", SLURM_LOCALID="0", SLURM_NODEID="0")


def test_jobs_without_a_name_differ_in_the_agent_that_started_them():
    def torchrun(name, directory, local_rank):
        file = f"/tmp/{directory}/attempt_0/{local_rank}/error.json"
        changes = {"TORCHELASTIC_RUN_ID": name, "TORCHELASTIC_ERROR_FILE": file}
        return current_launch({**TORCHRUN, **changes})

    first, second = (torchrun("none", "first", local_rank) for local_rank in (0, 1))
    assert (first.job, first.agent) == (second.job, second.agent)
    next_one = torchrun("none", "next", 0)
    assert first.job == next_one.job
    assert first.agent != next_one.agent
    assert torchrun("named", "first", 0).agent is None
    assert current_launch(SLURM).agent is None
    assert current_launch(MPICH).agent is not None
    assert current_launch(MPICH).job == ""
