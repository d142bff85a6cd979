"""Prompts for a benchmark: made to a number of tokens, or from a file."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from joulelab.errors import UserError
from joulelab.storage import file_errors

_TEXT = """
able above after against air all also and any are area ask away back base bed been begin best
better big blue body book both box boy bring but call came can car care case check city clear cold
come common country cut dark day deep did door down draw drive each early east eat end even
example eye face fact family far farm fast father feel feet few field find fire first fish five
food foot for form four free friend from full game gave get girl give gold good got great ground
grow had half hand hard has have head hear heat help her here high him his hold home hot hour
house how hundred idea inside into job just keep kind king know land language last late later lead
leave left less let letter life light like line list little live long look love low machine made
main make man many map mark may mean men might mind money moon more most mountain move much must
name near need new next night north note nothing now number off oil old once one only open order
our out over own page part place plan plant play point problem put quick rain ran read ready real
red rest right road rock room rule run said same saw say school sea second see seem self sentence
set she ship short show side simple six size sleep slow small snow some song soon sound space
stand star start stay step still stop story strong such sun sure
"""
WORDS = _TEXT.split()
"""Common English words: with the space before it, each is one token of most vocabularies."""


@dataclass(frozen=True, slots=True)
class Lengths:
    """Numbers of tokens to choose from, both ends included."""

    least: int
    most: int

    @classmethod
    def parse(cls, text: str) -> Lengths:
        """Read ``512`` or ``256-1024``.

        Raises:
            ValueError: It is neither.

        Example:
            >>> Lengths.parse("512"), Lengths.parse("256-1024")
            (Lengths(least=512, most=512), Lengths(least=256, most=1024))
        """
        ends = [int(one) for one in text.split("-")]
        if len(ends) > 2 or not 1 <= ends[0] <= ends[-1]:
            raise ValueError(f"{text!r} is neither a number of tokens nor a range of them")
        return cls(ends[0], ends[-1])

    def draw(self, chance: random.Random) -> int:
        """Choose one; each is equally likely."""
        return chance.randint(self.least, self.most)


class Prompt(NamedTuple):
    """A prompt, and the number of tokens to generate from it."""

    text: str
    output_tokens: int


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """How many tokens a server counts in a prompt of :data:`WORDS`."""

    per_word: float = 1.0  # Tokens of a word, on average.
    overhead: float = 0.0  # Tokens of every prompt, for example the first one and a template's.

    @classmethod
    def through(cls, short: tuple[int, float], long: tuple[int, float]) -> Tokenizer:
        """Return the straight line through the words and tokens of two prompts."""
        (words, tokens), (more_words, more_tokens) = short, long
        per_word = (more_tokens - tokens) / (more_words - words)
        return cls(per_word, tokens - per_word * words)

    def tokens_of(self, text: str) -> float:
        """Estimate the tokens of a prompt."""
        return self.overhead + self.per_word * len(text.split())

    def words_for(self, tokens: float) -> int:
        """Return how many words come closest to a number of tokens; at least one."""
        return max(1, round((tokens - self.overhead) / self.per_word))


def made_of(words: int, chance: random.Random) -> str:
    """Return a text of random words."""
    return " ".join(chance.choices(WORDS, k=words))


def synthetic_prompts(
    inputs: Lengths,
    outputs: Lengths,
    tokenizer: Tokenizer,
    *,
    shared_prefix: int = 0,
    seed: int = 0,
) -> Iterator[Prompt]:
    """Yield prompts of random words without end.

    They begin differently, and differ from those of the last run whatever the seed, so that a
    server's cache of prompts does not hide their prefill.

    Args:
        inputs: Tokens of each prompt.
        outputs: Tokens to generate from each.
        tokenizer: What the server counts.
        shared_prefix: Tokens with which all prompts begin, as with a system prompt.
        seed: Of their lengths.
    """
    chance, fresh = random.Random(seed), random.Random()
    prefix = made_of(tokenizer.words_for(shared_prefix), fresh) + " " if shared_prefix else ""
    shared = len(prefix.split())
    while True:
        words = tokenizer.words_for(inputs.draw(chance)) - shared
        yield Prompt(prefix + made_of(max(1, words), fresh), outputs.draw(chance))


def read_prompts(path: Path, outputs: Lengths, *, seed: int = 0) -> list[Prompt]:
    """Read prompts from a file: one a line, or JSONL with ``prompt`` and perhaps ``output_tokens``.

    Args:
        path: The file.
        outputs: Tokens to generate where the file does not say how many.
        seed: Of the choice among them.

    Raises:
        UserError: It cannot be read, or has no prompt.
    """
    chance = random.Random(seed)
    with file_errors(f"cannot read {path}"):
        lines = path.read_bytes().decode(errors="replace").split("\n")
    prompts = []
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text:
            continue
        tokens: object = None
        if text.startswith("{"):
            try:
                row = json.loads(text)
                text, tokens = row["prompt"], row.get("output_tokens")
            except (ValueError, KeyError) as error:
                raise UserError(
                    f"line {number} of {path} is not a prompt",
                    why=str(error) if isinstance(error, ValueError) else "it has no field prompt",
                    hint='write {"prompt": "...", "output_tokens": 128}',
                ) from error
        wanted = outputs.draw(chance) if tokens is None else tokens
        if not isinstance(text, str) or type(wanted) is not int or wanted < 1:
            raise UserError(
                f"line {number} of {path} is not a prompt",
                why="prompt must be a text, and output_tokens a positive whole number",
            )
        prompts.append(Prompt(text, wanted))
    if not prompts:
        raise UserError(f"{path} has no prompts", hint="write one a line")
    return prompts
