"""Model cards: what the Hugging Face Hub reads, and a paragraph for people."""

from dataclasses import replace

import pytest
import yaml
from measured_runs import joulelab

from joulelab.machine import Gpu, describe

KEYS = {"emissions", "source", "geographical_location", "hardware_used"}


def parts_of(card):
    _, metadata, text = card.split("---\n")
    return yaml.safe_load(metadata)["co2_eq_emissions"], text


def machine_with(*gpus):
    boards = [
        Gpu(i, name, f"GPU-{i}", None, None, None, None, None, None) for i, name in enumerate(gpus)
    ]
    return replace(describe(), gpus=tuple(boards))


def test_metadata_and_paragraph_of_a_training(tmp_path, run_record, printed):
    machine = machine_with("NVIDIA H100", "NVIDIA H100")
    run_record(tmp_path / "runs" / "a", 3.6e6, machine=machine)
    run_record(tmp_path / "runs" / "b", 3.6e6, machine=machine, began="2026-11-03T12:00Z")
    card = printed("ledger", tmp_path / "runs", "--model-card", "-", "--intensity", "300",
        "--country", "Quebec, \"Canada\"", "--pue", "1.2")  # fmt: skip
    metadata, text = parts_of(card)
    assert metadata.keys() == KEYS
    assert metadata["emissions"] == 720.0
    assert metadata["geographical_location"] == 'Quebec, "Canada"'
    assert metadata["hardware_used"] == "2 x NVIDIA H100"
    assert metadata["source"].startswith("JouleLab ")
    assert "300 g/kWh" in metadata["source"]
    assert "2 runs on 2 x NVIDIA H100 used **7,200 kJ (95 % CI 6,494–7,906 kJ)**, 2,000 Wh" in text
    assert "720 g (95 % CI 649–791 g) CO2e" in text
    assert "gpu:0 (simulated by counter)" in text
    assert "100 % of the energy is simulated" in text


def test_a_card_of_a_run_by_name_in_a_file(tmp_path, printed):
    run = ["run", "--sensors", "simulated", "--wait", "--name", "digits", "--", "sleep", "0.5"]
    assert joulelab(*run).returncode == 0
    path = tmp_path / "card.md"
    ledger = printed("ledger", "digits", "--country", "DE", "--model-card", path)
    assert ledger.startswith("1 record")
    metadata, text = parts_of(path.read_text())
    assert metadata["geographical_location"] == "Germany"
    assert metadata["emissions"] > 0
    assert "1 run" in text


@pytest.mark.parametrize("names", [[], ["nowhere"]])
def test_without_carbon_or_runs_there_is_no_card(tmp_path, run_record, refused, names):
    run_record(tmp_path / "home" / "runs" / "a", 3.6e6)
    error = refused("ledger", *names, "--model-card", tmp_path / "card.md")
    assert ("no saved run of that name" if names else "--country") in error
    assert not (tmp_path / "card.md").exists()


@pytest.mark.parametrize("gross_j", [1e-3, 3.6e12])
def test_numbers_and_names_survive_yaml(tmp_path, run_record, printed, gross_j):
    machine = machine_with('"GPU": [x]\x85\x7f # no')
    run_record(tmp_path / "runs" / "a", gross_j, machine=machine)
    card = printed("ledger", tmp_path / "runs", "--model-card", "-", "--country", "DE")
    metadata, _ = parts_of(card)
    assert metadata["emissions"] == pytest.approx(gross_j / 3.6e6 * 329.6, rel=1e-3)
    assert metadata["hardware_used"] == '1 x "GPU": [x]\\x85\\x7f # no'
