"""Studies with everything that figures show. All figures are invented."""

MODELS = ("LeNet", "MobileNetV2", "ResNet18", "VGG16", "GoogLeNet", "DPN26")


def write_rich(synthetic, directory, batch_sizes=(16, 64), repeats=2, **machine):
    """Several batch sizes, utilisation, memory and accuracy; each model at its own speed."""
    writer = synthetic.Writer(
        directory,
        machine=synthetic.other_machine(**machine),
        models=list(MODELS),
        repeats=repeats,
    )
    for block in range(repeats):
        writer.idle(block, "before")
        for place, model in enumerate(MODELS):
            for batch_size in batch_sizes:
                writer.cell(
                    model,
                    block,
                    stretch=(1 + 0.4 * place) * (1 + 8 / batch_size) * (1 + 0.02 * block),
                    batch_size=batch_size,
                    change=lambda run, place=place: _told(run, place),
                )
        writer.idle(block, "after")
    return directory


def _told(run, place):
    for result in run["results"].values():
        result["accuracy_pct"] = 60.0 + 5 * place + 0.1 * run["block"]
        result["gpu_utilization_pct"] = 30.0 + 10 * place
        result["vram_peak_bytes"] = (place + 1) * 2**29
    for epoch in run["epochs"]:
        epoch["accuracy_pct"] = 50.0 + 5 * place + 3 * epoch["index"]
