"""Train language models, prefill their prompts and decode from them, and announce it.

Each phase announces ``warmup`` (``phase``) and then ``epoch`` (``phase``, ``index``) for each pass
over the sequences, as :mod:`joulelab.workloads.classification` does. Sequences are random token ids
of exactly the requested length, so that nothing is padded. Their number is a whole number of
batches: a smaller last batch would cost more for each of its tokens.

At fixed lengths, random weights cost the same joules as trained ones, because the same operations
run on tensors of the same shapes. Mixtures of experts are an exception: which experts a token
reaches depends on the weights.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import cycle, islice
from typing import ClassVar

import torch
from torch.nn import functional

from joulelab.errors import UserError
from joulelab.workloads.batch_loop import (
    Clock,
    EpochRunner,
    Model,
    Outcome,
    PhaseLength,
    Step,
    new_optimizer,
    restored,
    run_batches,
)
from joulelab.workloads.decoder import Decoder
from joulelab.workloads.phases import (
    CACHES,
    EpochResult,
    Observer,
    OptimizerSettings,
    PhaseResult,
    PhaseSettings,
    announced,
    require_choice,
    require_whole,
)
from joulelab.workloads.torch_runtime import (
    StepLimiter,
    number_formats,
    peak_bytes,
    reset_peak,
    resolve_device,
    stream_seed,
    torch_failures,
)

ATTENTION = {"eager": "eager", "sdpa": "sdpa", "flash": "flash_attention_2"}
"""Implementations of attention, and transformers' names of them."""

DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16,
          "fp16": torch.float16}  # fmt: skip
"""The type of the weights in prefill and decoding, by precision."""

Batch = tuple[torch.Tensor]
"""Token ids, int64 (B, T), on the device."""


@dataclass(frozen=True, kw_only=True)
class LanguageTrainSettings(OptimizerSettings):
    """Settings of training a language model to predict the next token.

    Raises:
        UserError: A value is out of range, or two lengths are given.
    """

    sequences: int = 256  # Sequences of the training set.
    sequence_tokens: int = 512  # Tokens of a sequence, at least 2.
    # Batches per step of the optimiser. A step of the phase is one of the optimiser.
    gradient_accumulation_steps: int = 1

    def __post_init__(self) -> None:
        # Half precision alone trains badly without scaling the loss.
        self._check("fp32", "tf32", "bf16")
        require_whole(self, 1, "sequences", "gradient_accumulation_steps")
        require_whole(self, 2, "sequence_tokens")

    @property
    def samples_per_step(self) -> int:
        """Sequences of a step."""
        return self.batch_size * self.gradient_accumulation_steps


@dataclass(frozen=True, kw_only=True)
class GenerateSettings(PhaseSettings):
    """Settings of prefill and decoding. Weights have the type of the precision.

    Raises:
        UserError: A value is out of range, or two lengths are given.
    """

    LENGTH: ClassVar[tuple[str, int]] = ("passes", 5)

    sequences: int = 256  # Prompts of the test set.
    prompt_tokens: int = 512  # Tokens of a prompt.
    output_tokens: int = 128  # Tokens that decoding adds to each prompt.
    # ``"dynamic"`` grows with each token, ``"static"`` is allocated once, and with ``"none"`` each
    # token is computed from the whole sequence again.
    cache: str = "dynamic"
    passes: int | None = None  # Passes over the prompts; 5 if no length is given.
    seed: int = 0  # Seed of the prompts.

    def __post_init__(self) -> None:
        self._check(*DTYPES)
        require_whole(self, 1, "sequences", "prompt_tokens", "output_tokens")
        require_whole(self, 0, "seed")
        require_choice(self, "cache", CACHES)
        if self.compile and self.cache != "static":
            raise UserError(
                f"compile with cache {self.cache!r}",
                why="a sequence that grows is compiled again at each length",
                hint="choose cache static",
            )

    @property
    def samples_per_step(self) -> int:
        """Sequences of a step."""
        return self.batch_size


def train(
    model: torch.nn.Module,
    settings: LanguageTrainSettings,
    observer: Observer | None,
    *,
    announce_steps: bool = False,
    enough: Callable[[], bool] = lambda: False,
    is_over: Callable[[], bool] = lambda: False,
    clock: Clock = time.monotonic,
) -> PhaseResult:
    """Train a language model in place, on the mean cross-entropy of the next token.

    Arguments, and what is restored, are those of
    :func:`joulelab.workloads.classification.train`. Weights are float32; ``bf16`` is autocast.
    Every token of a sequence counts as processed.

    Raises:
        WorkloadError: Out of memory, the model fails, or the loss is not finite.
        UserError: The device does not exist or lacks the precision, a step takes more sequences
            than there are, or the model accepts no such sequence.
    """
    device = resolve_device(settings.device)
    length = PhaseLength(settings.epochs, settings.steps, settings.seconds, clock, is_over)
    epochs: list[EpochResult] = []
    with _prepared(model, settings, device, torch.float32, settings.sequence_tokens) as prepared:
        decoder, sequences = prepared
        if settings.warmup_steps:
            with announced(observer, "warmup", phase="train"), restored(model):
                step = _training_step(model, decoder.runner, settings)
                run_batches(_repeated(sequences, settings), step, device)
                del step
        torch.manual_seed(settings.seed)
        step = _training_step(model, decoder.runner, settings)
        model.train()
        reset_peak(device)
        runner = EpochRunner("train", device, length, observer, announce_steps)
        count = len(sequences) // settings.samples_per_step
        while not (length.reached or (epochs and enough())):
            batches = _batches(sequences, settings.samples_per_step)
            epochs.append(runner.run(len(epochs), batches, count, step))
        return PhaseResult("train", tuple(epochs), peak_bytes(device), cudnn_benchmark=False)


def generate(
    phase: str,
    model: torch.nn.Module,
    settings: GenerateSettings,
    observer: Observer | None,
    *,
    announce_steps: bool = False,
    is_over: Callable[[], bool] = lambda: False,
    clock: Clock = time.monotonic,
) -> PhaseResult:
    """Prefill prompts, or decode from them, in evaluation mode and without gradients.

    A step of ``"prefill"`` runs a batch of prompts through the model once and fills a cache; only
    the last token gets logits, as in a server. A step of ``"decode"`` adds ``output_tokens`` tokens
    to each sequence of a batch, one at a time, each the most likely one. It starts from a cache
    that a prefill filled before the first step; all steps start from the same.

    Args:
        phase: ``"prefill"`` or ``"decode"``.
        model: A causal language model of transformers.
        settings: What to run.
        observer: Receives the spans, if there is one.
        announce_steps: As for :func:`train`, like the other arguments and errors.
        is_over: Called after each step; ends the phase if it returns true.
        clock: The host's clock, s.
    """
    device = resolve_device(settings.device)
    length = PhaseLength(settings.passes, settings.steps, settings.seconds, clock, is_over)
    longest = settings.prompt_tokens + (settings.output_tokens if phase == "decode" else 0)
    dtype, epochs = DTYPES[settings.precision], list[EpochResult]()
    with (
        _prepared(model, settings, device, dtype, longest, settings.prompt_tokens) as prepared,
        torch.inference_mode(),
    ):
        decoder, prompts = prepared
        model.eval()
        with announced(observer, "warmup", phase=phase):
            with torch_failures("the prefill"):
                make_step = {"prefill": _prefill_step, "decode": _decode_step}[phase]
                step = make_step(decoder, prompts, settings, longest)
            run_batches(_repeated(prompts, settings), step, device)
        reset_peak(device)
        runner = EpochRunner(phase, device, length, observer, announce_steps)
        count = len(prompts) // settings.batch_size
        while not length.reached:
            batches = _batches(prompts, settings.batch_size)
            epochs.append(runner.run(len(epochs), batches, count, step))
        return PhaseResult(phase, tuple(epochs), peak_bytes(device), cudnn_benchmark=False)


@contextmanager
def _prepared(
    model: torch.nn.Module,
    settings: LanguageTrainSettings | GenerateSettings,
    device: torch.device,
    dtype: torch.dtype,
    longest: int,
    tokens: int | None = None,
) -> Iterator[tuple[Decoder, torch.Tensor]]:
    """Move the model to its device, make the sequences, and restore global settings."""
    if settings.samples_per_step > settings.sequences:
        raise UserError(
            f"a step of {settings.samples_per_step} sequences",
            why=f"there are {settings.sequences}",
            hint="use a smaller batch_size, or more sequences (train_count, test_count)",
        )
    runner: Model = model
    with ExitStack() as stack:
        stack.enter_context(number_formats(settings.precision, device, cudnn_benchmark=False))
        stack.enter_context(
            torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
        )
        torch.manual_seed(0)
        with torch_failures("moving model and sequences to the device"):
            model.to(device, dtype)
            if settings.compile:
                torch.compiler.reset()
                runner = torch.compile(model, dynamic=False)
            decoder = Decoder(model, runner, device, dtype)
            decoder.require_length(longest)
            generator = torch.Generator(device).manual_seed(stream_seed(settings.seed, 0))
            shape = settings.sequences, tokens or longest
            sequences = torch.randint(decoder.vocabulary, shape, generator=generator, device=device)
        yield decoder, sequences


def _batches(sequences: torch.Tensor, size: int) -> Generator[Batch, None, None]:
    """Yield whole batches, in order."""
    for start in range(0, len(sequences) - size + 1, size):
        yield (sequences[start : start + size],)


def _repeated(
    sequences: torch.Tensor, settings: LanguageTrainSettings | GenerateSettings
) -> Generator[Batch, None, None]:
    """Yield the batches of the warm-up."""
    batches = list(_batches(sequences, settings.samples_per_step))
    yield from islice(cycle(batches), settings.warmup_steps)


def _training_step(model: torch.nn.Module, runner: Model, settings: LanguageTrainSettings) -> Step:
    optimizer = new_optimizer(model, settings)
    parts = settings.gradient_accumulation_steps

    def step(batch: Batch) -> Outcome:
        optimizer.zero_grad(set_to_none=True)
        (sequences,) = batch
        total = torch.zeros((), device=sequences.device)
        for part in torch.split(sequences, settings.batch_size):
            loss = _next_token_loss(runner, part, settings.precision) / parts
            with torch_failures("the backward pass"):
                torch.autograd.backward(loss)
            total += loss.detach()
        with torch_failures("the optimiser's step"):
            optimizer.step()
        return Outcome(len(sequences), total, tokens=sequences.numel())

    return step


def _next_token_loss(runner: Model, tokens: torch.Tensor, precision: str) -> torch.Tensor:
    # The last token has no next one: -100 is cross_entropy's index to ignore.
    targets = functional.pad(tokens[:, 1:], (0, 1), value=-100)
    device_type = tokens.device.type
    with (
        torch_failures("the model's forward pass"),
        torch.autocast(device_type, torch.bfloat16) if precision == "bf16" else nullcontext(),
    ):
        logits = runner(input_ids=tokens, use_cache=False).logits
        return functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


def _prefill_step(
    decoder: Decoder, prompts: torch.Tensor, settings: GenerateSettings, longest: int
) -> Step:
    reused = decoder.new_cache(settings.cache, settings.batch_size, longest)

    def step(batch: Batch) -> Outcome:
        (tokens,) = batch
        cache = reused
        with torch_failures("the model's forward pass"):
            if settings.cache == "dynamic":
                cache = decoder.new_cache("dynamic", len(tokens), longest)
            decoder.next_tokens(tokens, cache, 0)
            decoder.shorten(cache, tokens.shape[1])
        return Outcome(len(tokens), tokens=tokens.numel())

    return step


def _decode_step(
    decoder: Decoder, prompts: torch.Tensor, settings: GenerateSettings, longest: int
) -> Step:
    cache = decoder.new_cache(settings.cache, settings.batch_size, longest)
    prompt = prompts[: settings.batch_size]
    first = decoder.next_tokens(prompt, cache, 0)
    count, limiter = settings.output_tokens, StepLimiter(prompt.device)

    def step(batch: Batch) -> Outcome:
        tokens, sequence = first, prompt
        with torch_failures("the model's forward pass"):
            for position in range(settings.prompt_tokens, longest):
                if cache is None:
                    sequence = torch.cat([sequence, tokens], dim=1)
                tokens = decoder.next_tokens(sequence if cache is None else tokens, cache, position)
                limiter.count_step()
            decoder.shorten(cache, count)
        return Outcome(len(prompt), tokens=count * len(prompt))

    return step
