"""``joulelab llm bench``: load a server and measure the energy of its tokens."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from joulelab.carbon.site import Site
from joulelab.carbon.token_costs import token_costs
from joulelab.cli.output import (
    SectionedCommand,
    SectionOption,
    echo,
    output_console,
    print_json,
    value_table,
)
from joulelab.format import count, number, sentence, time_scale
from joulelab.llm.prompts import Lengths
from joulelab.llm.text import all_notes, per_token_cell
from joulelab.llm.token_attribution import UNKNOWN_COST
from joulelab.recording.trace import read_trace

if TYPE_CHECKING:
    from joulelab.llm.bench_result import BenchResult, Percentiles
    from joulelab.llm.load import LevelLoad
    from joulelab.llm.openai_client import Api

USUAL_CONCURRENCIES = (1, 2, 4, 8)
USUAL_DURATION_S = 60.0
_SERVICE = (
    "requests", "failed", "tokens/s", "first token", "p99", "next token", "p99",
)  # fmt: skip
_ENERGY = ("J per output token (95 % CI)", "net, output token", "net, input token")


class _Numbers(click.ParamType[tuple[Any, ...]]):
    """Positive numbers, separated by commas."""

    def __init__(self, kind: Callable[[str], Any]) -> None:
        self.name = "numbers"
        self._kind = kind

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[Any, ...]:
        """Return the numbers."""
        try:
            numbers = tuple(self._kind(one) for one in value.split(","))
        except ValueError:
            numbers = ()
        if not numbers or not all(0 < one < math.inf for one in numbers):
            self.fail(f"{value!r} is not a list of positive numbers, such as 1,2,4", param, ctx)
        return numbers


class _LengthsType(click.ParamType[Lengths]):
    """A number of tokens, or a range of them."""

    name = "tokens"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Lengths:
        """Return the range."""
        try:
            return value if isinstance(value, Lengths) else Lengths.parse(value)
        except ValueError:
            self.fail(f"{value!r} is not a number of tokens; give 512 or 256-1024", param, ctx)


def _option(section: str, *names: str, **options: Any) -> Callable[[Any], Any]:
    return click.option(*names, cls=SectionOption, section=section, **options)


@click.command("bench", cls=SectionedCommand)
@click.argument("url")
@_option("Load", "--concurrency", type=_Numbers(int), metavar="N,...",
    help="Requests in flight, one level after the other.  [default: 1,2,4,8]")  # fmt: skip
@_option("Load", "--rate", "rates", type=_Numbers(float), metavar="R,...",
    help="Arrivals per second, at random times, even if the server is too slow.")  # fmt: skip
@_option("Load", "--duration", "duration_s", type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS", help="Time in which the requests of a level start.  "
    "[default: 60]")  # fmt: skip
@_option("Load", "--requests", type=click.IntRange(min=1), metavar="N",
    help="Number of requests of a level, instead of --duration.")  # fmt: skip
@_option("Load", "--idle", "idle_s", type=click.FloatRange(min=0), default=5.0, show_default=True,
    metavar="SECONDS", help="Time to measure idle power, with the server loaded, before and "
    "after.")  # fmt: skip
@_option("Prompts", "--input-tokens", "inputs", type=_LengthsType(), default="512",
    show_default=True, metavar="N[-M]", help="Tokens of each prompt, or a range.")  # fmt: skip
@_option("Prompts", "--output-tokens", "outputs", type=_LengthsType(), default="128",
    show_default=True, metavar="N[-M]", help="Tokens to generate, or a range.")  # fmt: skip
@_option("Prompts", "--shared-prefix", type=click.IntRange(min=0), default=0, metavar="TOKENS",
    help="Begin all prompts with the same tokens, as with a system prompt.  "
    "[default: all differ]")  # fmt: skip
@_option("Prompts", "--prompts", "prompts_file", metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Prompts instead of random "
    "words: one a line, or JSONL with prompt and perhaps output_tokens.")  # fmt: skip
@_option("Prompts", "--seed", type=int, default=0, show_default=True,
    help="Seed of lengths and arrivals.")  # fmt: skip
@_option("Server", "--model", metavar="NAME",
    help="Model to request.  [default: the only one that the server has]")  # fmt: skip
@_option("Server", "--api", type=click.Choice(["completions", "chat"]),
    help="Kind of requests.  [default: completions, else chat]")  # fmt: skip
@_option("Server", "--api-key-env", "api_key_variable", metavar="NAME",
    help="Environment variable with the key of the server.")  # fmt: skip
@_option("Server", "--timeout", "timeout_s", type=click.FloatRange(min=0, min_open=True),
    default=300.0, show_default=True, metavar="SECONDS",
    help="Longest time without data after which a request has failed.")  # fmt: skip
@_option("Output", "--out", "directory", required=True, metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path), help="New directory for the recording, the "
    "requests and the result.")  # fmt: skip
@_option("Output", "--no-energy", is_flag=True,
    help="Measure only times: for a server on another host.")  # fmt: skip
@_option("Output", "--json", "as_json", is_flag=True, help="Print JSON.")
def bench(
    concurrency: tuple[int, ...] | None,
    rates: tuple[float, ...] | None,
    duration_s: float | None,
    requests: int | None,
    prompts_file: Path | None,
    directory: Path,
    no_energy: bool,
    as_json: bool,
    url: str,
    model: str | None,
    api: Api | None,
    api_key_variable: str | None,
    timeout_s: float,
    **given: Any,
) -> None:
    """Measure the energy of a server's tokens under load.

    URL is that of any server that speaks the OpenAI protocol, for example of vLLM, SGLang or
    llama.cpp. The energy is this machine's, so run it where the server runs. GPUs that the server
    does not use are left out by CUDA_VISIBLE_DEVICES.

    \b
    Example:
      joulelab llm bench http://127.0.0.1:8000 --out results
      joulelab llm bench localhost:8080 --concurrency 1,8,64 --duration 120 --out results
      joulelab llm bench localhost:8080 --rate 0.5,1,2 --input-tokens 256-1024 --out results
    """
    from joulelab.llm.bench import BenchOptions, run_bench  # noqa: PLC0415 - imports aiohttp
    from joulelab.llm.load import Extent, Level  # noqa: PLC0415
    from joulelab.llm.openai_client import OpenAIClient  # noqa: PLC0415

    if requests is not None and duration_s is not None:
        raise click.UsageError("give --requests or --duration, not both")
    if given["shared_prefix"] >= given["inputs"].least:
        raise click.UsageError("--shared-prefix must be shorter than --input-tokens")
    if concurrency is None and rates is None:
        concurrency = USUAL_CONCURRENCIES
    if requests is None and duration_s is None:
        duration_s = USUAL_DURATION_S
    options = BenchOptions(
        levels=(
            *(Level(concurrency=one) for one in concurrency or ()),
            *(Level(rate_per_s=one) for one in rates or ()),
        ),
        extent=Extent(requests, duration_s),
        prompts=prompts_file,
        is_measured=not no_energy,
        **given,
    )
    client = OpenAIClient(
        url, model=model, api=api, api_key_variable=api_key_variable, timeout_s=timeout_s
    )
    with _progress() as watch:
        result = run_bench(client, options, directory, watch=watch)
    page = _write_page(result, directory)
    if as_json:
        print_json(result.to_json())
    else:
        print_bench(result)
        echo(f"Results: {directory}")
        if page is not None:
            echo(f"Page:    {page}")
        elif not no_energy:
            echo("Page:    none; it needs `pip install 'joulelab[study]'`")
    if result.is_interrupted:
        echo("joulelab: interrupted; the result has what was finished", err=True)
        click.get_current_context().exit(130)


def _write_page(result: BenchResult, directory: Path) -> Path | None:
    """Write the page of a result with energies, if the packages for figures are installed."""
    if result.total is None or importlib.util.find_spec("altair") is None:
        return None
    from joulelab.report.llm_page import LoadPoint, write_llm_page  # noqa: PLC0415 - imports pandas

    points = {
        str(one.level): LoadPoint(str(one.level), one.cost_ratio, one.output_tokens_per_s)
        for one in result.levels
    }
    return write_llm_page(
        directory / "report.html",
        result.total,
        title=result.model,
        trace=read_trace(directory),
        costs=result.costs,
        sweep=list(points.values()),
        best=points[str(result.best.level)],
        summary=result.headline,
    )


@contextmanager
def _progress() -> Iterator[Callable[[str, LevelLoad | None], None]]:
    """Show each stage on standard error, and in a terminal how far it is."""
    console = Console(stderr=True)
    stages: list[str] = []

    def watch(stage: str, load: LevelLoad | None) -> None:
        text = stage if load is None else f"{stage}: {_load_text(load)}"
        if console.is_terminal:
            status.update(text)
        elif stage not in stages[-1:]:
            echo(stage, err=True)
        stages.append(stage)

    with console.status("") as status:
        yield watch


def _load_text(load: LevelLoad) -> str:
    wanted = load.extent.requests
    of = f" of {wanted:,}" if wanted else ""
    return (
        f"{len(load.replies):,}{of} requests answered, {load.in_flight} in flight, "
        f"{count(load.output_tokens, 'token')}"
    )


def print_bench(result: BenchResult) -> None:
    """Print the result: the main sentence, a row for each level, costs and notes."""
    echo(result.headline)
    service, energy = (value_table("load", headings) for headings in (_SERVICE, _ENERGY))
    for one in result.levels:
        label = str(one.level)
        service.add_row(
            label,
            f"{len(one.requests):,}",
            f"{sum(one.failures.values()):,}",
            number(one.output_tokens_per_s),
            *_times(one.first_token),
            *_times(one.between_tokens),
        )
        cost = UNKNOWN_COST if one.energy is None else one.energy.cost
        ratios = (one.cost_ratio, cost.j_per_output_token, cost.j_per_input_token)
        energy.add_row(label, *map(per_token_cell, ratios))
    console = output_console()
    console.print(service)
    if result.total is not None:
        console.print(energy)
    best = result.best
    if not math.isnan(best.cost.value):
        echo(f"At {best.level}:")
        for line in token_costs(best.cost_ratio, Site.configured()).lines():
            echo(f"  {line}")
    for note in result.notes if result.total is None else all_notes(result.total):
        echo(f"  {sentence(note)}")


def _times(found: Percentiles) -> tuple[str, str]:
    """Format median and 99th percentile on one scale."""
    if math.isnan(found.p50):
        return "–", "–"
    size, unit = time_scale(found.p50)
    return f"{number(found.p50 / size)} {unit}", f"{number(found.p99 / size)} {unit}"
