"""Two invented studies with factors on two machines, with everything that findings need."""

from contextlib import contextmanager

MODELS = ("LeNet", "MobileNetV2", "ResNet18", "VGG16", "GoogLeNet", "DPN26", "SENet18")
ALL_LEVELS = ((16, "fp32"), (16, "bf16"), (64, "fp32"), (64, "bf16"))
SERVER_LEVELS = ((16, "fp32"), (64, "fp32"))


def write_factors(synthetic, directory):
    """Write the studies ``workstation`` and ``server``, which has fewer levels.

    Returns:
        Their directories.
    """
    with _changed(synthetic):
        return [
            _write(synthetic, directory / "workstation", ALL_LEVELS),
            _write(synthetic, directory / "server", SERVER_LEVELS, cpu_cores=16),
        ]


def _write(synthetic, directory, levels, **machine):
    writer = synthetic.Writer(
        directory,
        machine=synthetic.other_machine(host=directory.name, **machine),
        name=directory.name,
        models=list(MODELS),
        repeats=2,
        factors={
            "batch_size": sorted({batch_size for batch_size, _ in levels}),
            "precision": sorted({precision for _, precision in levels}),
        },
    )
    slower = 1.5 if machine else 1.0
    for block in range(2):
        writer.idle(block, "before")
        for index, model in enumerate(MODELS):
            for batch_size, precision in levels:
                _draw(synthetic, index, batch_size)
                wobble = 1 + 0.01 * ((7 * index + 3 * batch_size + 3 * block) % 5)
                half = 0.6 + 0.03 * index if precision == "bf16" else 1.0
                writer.cell(
                    model,
                    block,
                    stretch=slower * half * wobble * (1 + 8 / batch_size) * (1 + 5 * index % 7),
                    batch_size=batch_size,
                    precision=precision,
                    change=lambda run, index=index: _measured(run, index),
                )
        writer.idle(block, "after")
    return directory


def _draw(synthetic, index, batch_size):
    """Set power and time, which each model and batch size has of its own."""
    synthetic.POWER_W["train"] = {"gpu:0": 180.0 + 25 * index + batch_size / 4, "cpu:0": 50.0}
    synthetic.POWER_W["infer"] = {"gpu:0": 160.0 + 15 * (3 * index % 7), "cpu:0": 40.0 + index}
    synthetic.EPOCH_S["infer"] = 0.8 + 0.1 * (4 * index % 7)


def _measured(run, index):
    for result in run["results"].values():
        result["accuracy_pct"] = 60.0 + 4 * (3 * index % 8) + 0.7 * run["block"]
        result["gpu_utilization_pct"] = min(99.0, 35.0 + 17 * index)
        result["vram_peak_bytes"] = (index + 1) * 2**29
        result["train_accuracy_pct"] = 70.0
    for epoch in run["epochs"]:
        epoch["accuracy_pct"] = 50.0 + 5 * index + (3 + index) * epoch["index"] ** 0.5


@contextmanager
def _changed(synthetic):
    """Restore the module's power, time, epochs and characteristics afterwards."""
    names = ("POWER_W", "EPOCH_S", "EPOCHS", "CHARACTERISTICS")
    before = {name: getattr(synthetic, name) for name in names}
    try:
        for name, value in before.items():
            setattr(synthetic, name, dict(value))
        synthetic.EPOCHS["train"] = 5
        for index, model in enumerate(MODELS):
            parameters = 1_000_000 * (1 + 4 * index % 7)
            counts = parameters, 20_000 * index, 40_000_000 * (1 + index**2 % 11)
            synthetic.CHARACTERISTICS.setdefault(model, counts)
        yield
    finally:
        for name, value in before.items():
            setattr(synthetic, name, value)
