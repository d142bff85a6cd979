"""The runs of a ledger for a model card: metadata of the Hugging Face Hub, and a paragraph.

The keys of ``co2_eq_emissions`` are those of the Hub's documentation, "Displaying carbon emissions
for your model". Emissions are in grams.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from decimal import Decimal

import joulelab
from joulelab.errors import UserError
from joulelab.format import (
    count,
    duration,
    join_words,
    markdown_text,
    printable,
    sentence,
    watt_hours,
    with_interval,
)
from joulelab.ledger.emissions import count_models
from joulelab.ledger.entries import Entry
from joulelab.ledger.group import count_records
from joulelab.ledger.ledger import Ledger


def model_card(ledger: Ledger) -> str:
    """Return YAML front matter and a paragraph of Markdown for all runs of a ledger.

    Raises:
        UserError: Nothing was measured, or the carbon of a run is unknown.
    """
    total = ledger.total
    if not total.is_measured:
        raise UserError("there is no measured run for a model card")
    if total.without_carbon:
        raise UserError(
            f"the CO2 of {count(total.without_carbon, 'run')} is unknown",
            hint="set your location with `joulelab site --country XX`, or give --country",
        )
    return "\n".join([*_metadata(ledger), "", *_paragraph(ledger)]) + "\n"


def _metadata(ledger: Ledger) -> Iterator[str]:
    locations = dict.fromkeys(
        one.costs.factor.location for one in ledger.entries if one.costs and one.costs.factor
    )
    values = {
        "source": f"JouleLab {joulelab.__version__}; {'; '.join(_factors(ledger))}",
        "geographical_location": ", ".join(filter(None, locations)),
        "hardware_used": _hardware(ledger),
    }
    yield "---"
    yield "co2_eq_emissions:"
    # Without an exponent, which YAML would read as a text.
    yield f"  emissions: {Decimal(f'{ledger.total.carbon.value:.4g}'):f}"
    # A text of JSON is a text of YAML.
    for key, value in values.items():
        if value:
            yield f"  {key}: {json.dumps(printable(value), ensure_ascii=False)}"
    yield "  # training_type: pre-training or fine-tuning"
    yield "---"


def _paragraph(ledger: Ledger) -> Iterator[str]:
    total = ledger.total
    energy, carbon = total.energy, total.carbon
    measured = [one for one in ledger.entries if one.energy is not None]
    wh = watt_hours(energy.value)
    hardware = markdown_text(_hardware(ledger))
    yield "## Energy and emissions"
    yield ""
    yield (
        f"{count(count_records(measured), 'run')}{f' on {hardware}' if hardware else ''} used "
        f"**{with_interval(energy.value, *energy.interval, 'J')}**"
        f"{f', {wh},' if wh else ''} in {duration(total.duration_s)}: "
        f"{with_interval(carbon.value, *carbon.interval, 'g')} "
        f"CO2e at {markdown_text(join_words(_factors(ledger)))}. This is the gross energy of "
        f"{_components(measured)}, idle power included, recorded by "
        f"[JouleLab](https://github.com/joulelab/joulelab) {joulelab.__version__}."
    )
    if ledger.warnings:
        yield ""
        yield from (f"- {markdown_text(sentence(warning))}" for warning in ledger.warnings)


def _factors(ledger: Ledger) -> list[str]:
    costs = [one.costs for one in ledger.entries if one.costs]
    return list(dict.fromkeys(f"{one.factor}, PUE {one.pue:g}" for one in costs))


def _hardware(ledger: Ledger) -> str:
    """Name the GPUs of each machine, or its processor if it has none."""
    found = {}
    for one in ledger.entries:
        machine = one.run.machine
        if machine is not None:
            gpus = count_models([gpu.name for gpu in machine.gpus])
            found[one.run.host] = gpus or machine.cpu_model
    return join_words(list(dict.fromkeys(filter(None, found.values()))))


def _components(entries: Iterable[Entry]) -> str:
    """List what was measured, and how.

    Example:
        >>> from types import SimpleNamespace as Namespace
        >>> part = Namespace(component="gpu:0", provenance="measured", source="nvml")
        >>> _components([Namespace(parts=[part]), Namespace(parts=[part])])
        'gpu:0 (measured by nvml)'
    """
    parts = (part for one in entries for part in one.parts)
    texts = (f"{one.component} ({one.provenance} by {one.source})" for one in parts)
    return join_words(list(dict.fromkeys(texts)))
