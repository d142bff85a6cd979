"""Measure the energy of a block of code, and of two phases in it.

Run it with `python examples/measure_block.py`. To try it without a GPU or RAPL, set
`JOULELAB_SENSORS=simulated`.
"""

import joulelab


def work(count: int) -> int:
    return sum(n * n for n in range(count))


with joulelab.measure("whole") as whole:
    work(2_000_000)
print("one block:", whole.energy)

with joulelab.Meter() as meter:
    for step in range(3):
        with meter.span("load", step=step):
            work(200_000)
        with meter.span("compute", step=step):
            work(2_000_000)
    for phase in ("load", "compute"):
        energy = meter.energy(phase)
        low_j, high_j = energy.interval_j
        print(f"{phase}: {energy.gross_j:.3g} J (95 % CI {low_j:.3g}–{high_j:.3g} J)")
