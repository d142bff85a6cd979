"""Write study directories with known values. All are invented: no machine measured them.

Power is constant, so every energy is power times time and can be worked out by hand:
training draws 300 W GPU + 50 W CPU, inference 200 W GPU + 45 W CPU, idle 100 W GPU + 30 W CPU
(104 W GPU after the block, so that there is a drift). Language models prefill at 400 W GPU + 50 W
CPU and decode at 250 W GPU + 50 W CPU.
"""

import json
from dataclasses import replace
from pathlib import Path

from joulelab.energy.energy import ComponentEnergy, Energy, total
from joulelab.machine import Gpu, Machine
from joulelab.sensors.sensor import Provenance
from joulelab.study.plan import Plan

GAIN = {"gpu:0": 0.05, "cpu:0": 0.25}
POWER_W = {
    "train": {"gpu:0": 300.0, "cpu:0": 50.0},
    "infer": {"gpu:0": 200.0, "cpu:0": 45.0},
    "prefill": {"gpu:0": 400.0, "cpu:0": 50.0},
    "decode": {"gpu:0": 250.0, "cpu:0": 50.0},
    "before": {"gpu:0": 100.0, "cpu:0": 30.0},
    "after": {"gpu:0": 104.0, "cpu:0": 30.0},
}
SOURCE = {"gpu:0": "nvml.samples", "cpu:0": "estimate.cpu"}
EPOCH_S = {"train": 4.0, "infer": 1.0, "prefill": 1.25, "decode": 10.0}
EPOCHS = {"train": 3, "infer": 2, "prefill": 2, "decode": 2}
SAMPLES = 1000
TOKENS = {"train": 512, "prefill": 512, "decode": 128}  # of a sample of a language model
MACS = {"train": 600, "prefill": 500, "decode": 550}  # of a token
SCALE = {"LeNet": 0.2, "MobileNetV2": 0.6, "ResNet18": 2.0, "VGG16": 1.0}
CHARACTERISTICS = {
    "LeNet": (62006, 0, 651720),
    "MobileNetV2": (2296922, 140808, 91154944),
    "ResNet18": (11173962, 38560, 555422720),
    "VGG16": (14728266, 33896, 313201664),
}
IMAGE_DATA = {
    "name": "digits",
    "origin": "scikit-learn",
    "real": True,
    "train_count": 1437,
    "test_count": 360,
    "num_classes": 10,
    "image_shape": [1, 32, 32],
}
TOKEN_DATA = {
    "name": "tokens",
    "origin": "random token ids",
    "real": False,
    "train_count": 1000,
    "test_count": 1000,
    "random_weights": ["lm:gpt2"],
    "mixtures": ["lm:mixtral"],
}
MACHINE = Machine(
    host="workstation",
    os="Debian GNU/Linux 13 (trixie)",
    kernel="6.12.1",
    cpu_model="Intel(R) Core(TM) i9-11900KF @ 3.50GHz",
    cpu_sockets=1,
    cpu_cores=8,
    cpu_threads=16,
    cpu_tdp_w=125.0,
    dram_bytes=134_000_000_000,
    dimms=None,
    gpus=(
        Gpu(
            index=0,
            name="NVIDIA GeForce RTX 3090",
            uuid="GPU-0",
            memory_bytes=24 * 2**30,
            power_limit_w=350.0,
            default_power_limit_w=350.0,
            driver="580.95.05",
            cuda_version="13.0",
            mig=False,
        ),
    ),
    virtualization=None,
    python="3.12.7",
    packages={"torch": "2.14.1"},
)


def component(name, power_w, duration_s, edge_j=1.0, provenance=None):
    return ComponentEnergy(
        component=name,
        source=SOURCE[name],
        provenance=provenance or (Provenance.ESTIMATED if "cpu" in name else Provenance.MEASURED),
        duration_s=duration_s,
        gross_j=power_w * duration_s,
        gain_uncertainty=GAIN[name],
        edge_uncertainty_j=edge_j,
    )


def energy(power_w, duration_s, absent=None, provenance=None):
    parts = {
        name: component(name, value, duration_s, provenance=provenance)
        for name, value in power_w.items()
    }
    reasons = {"dram:0": "no RAPL counter"} if absent is None else absent
    return Energy(duration_s=duration_s, components=parts, absent=reasons)


def slug(model):
    return "".join(letter for letter in model.lower() if letter.isalnum())


def disturb(run):
    """Change a run, before it is written, to one during which ``make`` used half of the CPU."""
    share = {"fraction": 0.5, "low": 0.3, "high": 0.7, "method": "CPU time"}
    for one in (*run["spans"], *run["results"].values()):
        one["energy"]["components"]["cpu:0"]["share"] = share | {"users": ["make (pid 7)"]}


class Writer:
    """Writes one study, whose runs follow one another on one clock."""

    def __init__(self, directory, machine=MACHINE, boot_id="boot-1", provenance=None, **plan):
        self.directory = Path(directory)
        self.machine, self.boot_id, self.provenance = machine, boot_id, provenance
        self.plan = Plan(**{"name": "synthetic", "models": ["LeNet"], "idle_s": 10.0} | plan)
        (self.directory / "runs").mkdir(parents=True)
        (self.directory / "plan.toml").write_text(self.plan.to_toml(), encoding="utf-8")
        self.now_s = 1000.0
        self.order = 0

    def write(self, run):
        directory = self.directory / "runs" / run["run_id"]
        directory.mkdir()
        text = json.dumps(run, allow_nan=False)
        (directory / "run.json").write_text(text, encoding="utf-8")
        return run

    def frame(self, run_id, kind, block, **more):
        return {
            "schema": 1,
            "run_id": run_id,
            "kind": kind,
            "status": "done",
            "failure": None,
            "study": self.plan.name,
            "block": block,
            "repeat": block,
            "boot_id": self.boot_id,
            "machine": self.machine.to_json(),
            "data": TOKEN_DATA if self.plan.is_language else IMAGE_DATA,
            "started_unix_s": 1.7e9 + self.now_s,
            "stopped_unix_s": 1.7e9 + self.now_s + 1,
            "spans": [],
            "results": {},
            "epochs": [],
            "settings": {},
            "characteristics": None,
        } | more

    def span(self, name, power_w, duration_s, **attributes):
        start_s, self.now_s = self.now_s, self.now_s + duration_s
        return {
            "name": name,
            "attributes": attributes,
            "start_ns": round(start_s * 1e9),
            "stop_ns": round(self.now_s * 1e9),
            "energy": energy(power_w, duration_s, provenance=self.provenance).to_json(),
        }

    def idle(self, block, place, power_w=None):
        run = self.frame(f"r{block}-idle-{place}", "idle", block, order=None, phases=["idle"])
        run["spans"] = [self.span("idle", power_w or POWER_W[place], self.plan.idle_s)]
        return self.write(run)

    def cell(self, model, block, *, stretch=1.0, energies=True, change=None, **factors):
        tag = "".join(f"-{value}" for value in factors.values())
        run = self.frame(
            f"r{block}-{slug(model)}{tag}", "cell", block, order=self.order, seed=block
        )
        self.order += 1
        run["phases"] = list(self.plan.phases)
        run["factors"] = self.factors(model, **factors)
        if model in CHARACTERISTICS:
            parameters, buffer_bytes, macs = CHARACTERISTICS[model]
            run["characteristics"] = {
                "parameters": parameters,
                "trainable_parameters": parameters,
                "parameter_bytes": 4 * parameters,
                "buffer_bytes": buffer_bytes,
                "size_bytes": 4 * parameters + buffer_bytes,
                "macs": macs,
                "macs_per_parameter": macs / parameters,
            }
        for phase in self.plan.phases:
            self._phase(run, phase, SCALE.get(model, 1.0) * stretch, energies)
        if change:
            change(run)
        return self.write(run)

    def factors(self, model, **factors):
        language = {"prompt_tokens": 512, "output_tokens": 128, "attention": "sdpa"}
        images = {"memory_format": "contiguous", "input_path": "device"}
        return {
            "model": model,
            "batch_size": 128,
            "precision": "fp32",
            "compile": False,
            "optimizer": "sgd",
            "device": "auto",
            "dataset": "digits",
            "resolved_device": "cuda:0",
            **(language | {"cache": "dynamic"} if self.plan.is_language else images),
        } | factors

    def _phase(self, run, phase, scale, energies):
        parts = []
        power_w = POWER_W[phase] if energies else {}
        for index in range(EPOCHS[phase]):
            duration_s = EPOCH_S[phase] * scale
            span = self.span("epoch", power_w, duration_s, phase=phase, index=index)
            run["spans"].append(span)
            parts.append(Energy.from_json(span["energy"]))
            run["epochs"].append(
                {
                    "phase": phase,
                    "index": index,
                    "energy": span["energy"],
                    "duration_s": duration_s,
                    "samples": SAMPLES,
                    "loss": 2.0 / (index + 1),
                    "train_accuracy_pct": None,
                    "accuracy_pct": 60.0 + 10 * index + run["block"],
                    "complete": True,
                }
            )
        last = run["epochs"][-1]
        run["results"][phase] = {
            "energy": total(parts).to_json(),
            "samples": SAMPLES * EPOCHS[phase],
            "tokens": SAMPLES * EPOCHS[phase] * TOKENS[phase] if self.plan.is_language else None,
            "macs_per_token": MACS[phase] * scale if self.plan.is_language else None,
            "steps": 8 * EPOCHS[phase],
            "epochs": EPOCHS[phase],
            "loss": last["loss"],
            "accuracy_pct": last["accuracy_pct"],
            "train_accuracy_pct": None,
            "data_wait_s": None,
            "vram_peak_bytes": None,
            "gpu_utilization_pct": 91.5,
            "cpu_utilization_pct": 12.0,
            "memory_utilization_pct": None,
            "cudnn_benchmark": False,
        }

    def failed(self, model, block, kind="out_of_memory", reason="CUDA out of memory"):
        run = self.frame(f"r{block}-{slug(model)}", "cell", block, order=self.order)
        self.order += 1
        return self.write(
            run
            | {
                "status": "failed",
                "failure": {"kind": kind, "reason": reason},
                "factors": self.factors(model),
                "phases": list(self.plan.phases),
                "seed": block,
            }
        )


def write_study(directory, models=tuple(SCALE), repeats=2, **options):
    """Write blocks of all models with idle before and after, the second repeat 2 % longer."""
    writer = Writer(directory, models=list(models), repeats=repeats, **options)
    for block in range(repeats):
        writer.idle(block, "before")
        for model in models:
            writer.cell(model, block, stretch=1 + 0.02 * block)
        writer.idle(block, "after")
    return writer


def other_machine(**changes):
    return replace(MACHINE, **changes)
