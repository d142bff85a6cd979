"""Models for the runner's tests, good ones and bad ones. The worker imports this file by name."""

import os
import signal
import sys

import torch
from torch import nn


def tiny(num_classes, in_channels):
    """Learns a little, at no cost. Prints, as libraries do, where the protocol must not suffer."""
    sys.stdout.write("a library's chatter\n")
    os.write(1, b'{"event": "answer"}\n')
    return nn.Sequential(
        nn.Conv2d(in_channels, 4, 3, stride=4),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(0.1),
        nn.Flatten(),
        nn.Linear(256, num_classes),
    )


def linear(num_classes, in_channels):
    return nn.Sequential(nn.Flatten(), nn.Linear(in_channels * 1024, num_classes))


def wrong_shape(num_classes, in_channels):
    return nn.Sequential(nn.Flatten(), nn.Linear(7, num_classes))


def broken(num_classes, in_channels):
    raise ValueError("this model cannot be built")


class _WhenTrained(nn.Module):
    """Does something when it is trained, for characteristics are taken in evaluation mode."""

    def __init__(self, num_classes, in_channels):
        super().__init__()
        self.model = linear(num_classes, in_channels)

    def forward(self, images):
        if self.training:
            self.act()
        return self.model(images)


class OutOfMemory(_WhenTrained):
    def act(self):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


class Segfault(_WhenTrained):
    def act(self):
        os.kill(os.getpid(), signal.SIGSEGV)
