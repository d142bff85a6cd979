"""Options that describe a step of training or inference."""

from __future__ import annotations

import click

from joulelab.models.registry import parse_input_shape

PROFILE = click.option(
    "--profile",
    "profile_name",
    default="h100",
    show_default=True,
    metavar="PROFILE",
    help="Hardware profile: a file, or the name of a shipped or saved profile.",
)
PHASE = click.option(
    "--phase",
    type=click.Choice(["train", "infer"]),
    default="train",
    show_default=True,
    help="Predict a step of training or of inference.",
)
BATCH_SIZE = click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    default=128,
    show_default=True,
    help="Number of samples in a step.",
)
INPUT = click.option(
    "--input",
    "input_shape",
    type=parse_input_shape,
    default="3x32x32",
    show_default=True,
    metavar="SHAPE",
    help="Shape of one sample: channels x height x width, or a number of tokens.",
)
CLASSES = click.option(
    "--classes",
    type=click.IntRange(min=1),
    default=10,
    show_default=True,
    help="Number of classes of the model.",
)
