"""What a study of recorded logs is of. It says what was found; nothing can be run from it."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from joulelab.study.plan import Phase, PositiveInt, StudyName, Table, distinct

Levels = Annotated[list[str], AfterValidator(distinct)]


class RecordedFactors(Table):
    """The levels that the spans name, in order of their first appearance; empty where they do not.

    Attributes:
        batch_size: Samples a step.
        precision: As the spans have it, and so on.
        memory_format: See :class:`joulelab.study.plan.FactorsPlan`.
        compile: Whether the model was compiled.
        optimizer: See there.
        input_path: See there.
        device: See there.
        dataset: The data set's name.
    """

    batch_size: Annotated[list[PositiveInt], AfterValidator(distinct)] = Field(default=[])
    precision: Levels = Field(default=[])
    memory_format: Levels = Field(default=[])
    compile: Annotated[list[bool], AfterValidator(distinct)] = Field(default=[])
    optimizer: Levels = Field(default=[])
    input_path: Levels = Field(default=[])
    device: Levels = Field(default=[])
    dataset: Levels = Field(default=[])


class RecordedFiles(Table):
    """What a study was made of.

    Attributes:
        spans: Name of the table of spans.
        logs: Names of the logs.
        digest: SHA-256 of all of these files, one after another.
        cells: How many runs were found, those of idle aside.
    """

    spans: str
    logs: list[str] = Field(min_length=1)
    digest: str
    cells: PositiveInt


class RecordedPlan(Table):
    """A study of recorded logs.

    Attributes:
        name: Names the study.
        models: As the registry calls them, or as the spans do where it does not know them.
        phases: What was recorded.
        repeats: The most runs that one combination of model and levels has.
        factors: The levels.
        recorded: Which files.
    """

    name: StudyName
    models: Annotated[list[str], Field(min_length=1), AfterValidator(distinct)]
    phases: Annotated[list[Phase], Field(min_length=1), AfterValidator(distinct)]
    repeats: PositiveInt
    factors: RecordedFactors
    recorded: RecordedFiles

    @property
    def cells(self) -> int:
        """How many runs it has, those of idle aside."""
        return self.recorded.cells
