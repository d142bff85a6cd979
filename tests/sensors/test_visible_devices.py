from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulelab.sensors.visible_devices import GpuIdentity, visible_gpus

GPUS = [GpuIdentity(n, f"GPU-{n:02d}abc", (f"MIG-{n}x", f"MIG-{n}y"), "A") for n in range(12)]


@pytest.mark.parametrize(
    ("value", "indices"),
    [
        (None, tuple(range(12))),
        ("", ()),
        (" ", ()),
        ("-1", ()),
        ("10", (10,)),
        ("0,10", (0, 10)),
        ("2,1", (2, 1)),
        ("0,2,-1,1", (0, 2)),
        ("0,99,1", (0,)),
        ("1,1", ()),
        ("0, 3", (0, 3)),
        ("+1", (1,)),
        ("1gpu,2x", (1, 2)),
        ("none", ()),
        ("GPU-03abc", (3,)),
        ("GPU-03", (3,)),
        ("GPU-1", ()),
        ("GPU-03,GPU-11", (3, 11)),
        ("GPU-03,4", (3,)),
        ("0,GPU-03", (0,)),
        ("GPU-03,GPU-03abc", ()),
        ("MIG-4y", (4,)),
        ("MIG-4x,MIG-4y", (4,)),
        ("MIG-4", ()),
        ("MIG-9z", ()),
    ],
)
def test_values_are_read_like_cuda_reads_them(value, indices):
    assert visible_gpus(value, GPUS).indices == indices


def test_an_empty_selection_has_a_reason():
    for value in ("", "-1", "1,1", "77", "GPU-zz", "MIG-zz", "no"):
        assert "CUDA_VISIBLE_DEVICES" in visible_gpus(value, GPUS).reason


def test_different_models_selected_by_index_are_noted_unless_the_order_is_known():
    gpus = [GpuIdentity(0, "GPU-a", model="A100"), GpuIdentity(1, "GPU-b", model="T4")]
    assert "CUDA_DEVICE_ORDER" in visible_gpus("0", gpus).note
    assert visible_gpus("0", gpus, "PCI_BUS_ID").note == ""
    assert visible_gpus("GPU-a", gpus).note == ""
    assert visible_gpus("0", GPUS).note == ""


@given(st.text(alphabet="0123456789,-+GPUMIGabcxy ", max_size=30))
def test_any_value_gives_each_gpu_at_most_once(value):
    indices = visible_gpus(value, GPUS).indices
    assert len(set(indices)) == len(indices)
    assert set(indices) <= set(range(12))


@given(st.permutations(range(12)), st.integers(0, 12))
def test_lists_keep_their_order_by_index_and_by_uuid(order, count):
    chosen = order[:count]
    if not chosen:
        return
    by_index = ",".join(str(n) for n in chosen)
    by_uuid = ",".join(GPUS[n].uuid for n in chosen)
    assert visible_gpus(by_index, GPUS).indices == tuple(chosen)
    assert visible_gpus(by_uuid, GPUS).indices == tuple(chosen)


@given(st.lists(st.integers(0, 11), min_size=1, unique=True), st.integers(12, 10**9))
def test_an_invalid_index_ends_the_list(chosen, invalid):
    text = ",".join(map(str, [*chosen, invalid, 0 if 0 not in chosen else 99]))
    assert visible_gpus(text, GPUS).indices == tuple(chosen)
