"""Digits, divided among clients, and a small network that learns them."""

from functools import cache

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier


@cache
def digits() -> list[np.ndarray]:
    data, labels = load_digits(return_X_y=True)
    return train_test_split(data / 16, labels, test_size=0.2, random_state=0, stratify=labels)


@cache
def partitions(alpha: float, seed: int, clients: int) -> list[np.ndarray]:
    """Divide the images among the clients, evenly or each digit by a Dirichlet distribution."""
    random = np.random.default_rng(seed)
    labels = digits()[2]
    if not alpha:
        return np.array_split(random.permutation(labels.size), clients)
    while True:
        parts = [[] for _ in range(clients)]
        for digit in range(10):
            images = random.permutation(np.flatnonzero(labels == digit))
            cuts = np.cumsum(random.dirichlet([alpha] * clients))[:-1] * images.size
            for part, some in zip(parts, np.split(images, cuts.astype(int)), strict=True):
                part.extend(some)
        if min(map(len, parts)) >= 10:
            return [np.array(part) for part in parts]


class Model:
    """A small network, with its parameters as a list of arrays."""

    def __init__(self, seed: int) -> None:
        self.network = MLPClassifier(
            (128,), solver="sgd", learning_rate_init=0.004, batch_size=2, random_state=seed
        )
        data, _, labels, _ = digits()
        self.network.partial_fit(data[:16], labels[:16], classes=np.arange(10))

    @property
    def parameters(self) -> list[np.ndarray]:
        """Weights and biases, which may be changed in place."""
        return [*self.network.coefs_, *self.network.intercepts_]

    def set(self, arrays: list[np.ndarray]) -> None:
        """Replace the parameters."""
        for own, new in zip(self.parameters, arrays, strict=True):
            own[:] = new

    def train(self, images: np.ndarray) -> None:
        """Train on these images for an epoch."""
        data, _, labels, _ = digits()
        self.network.partial_fit(data[images], labels[images])

    def accuracy(self) -> float:
        """Return the accuracy on images that no client has."""
        _, data, _, labels = digits()
        return self.network.score(data, labels)
