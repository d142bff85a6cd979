"""Measure the training of a Keras model with a callback.

Run it with `python examples/keras_callback.py`; it needs `pip install '.[integrations]'`. The
callbacks for Lightning and Transformers work the same way. To try it without a GPU or RAPL, set
`JOULELAB_SENSORS=simulated`.
"""

import os

os.environ.setdefault("KERAS_BACKEND", "torch")  # Keras uses TensorFlow by default.

import keras
import numpy as np

from joulelab.integrations.keras import EnergyCallback

rng = np.random.default_rng(0)
samples, labels = rng.normal(size=(512, 32)), rng.integers(0, 10, 512)
model = keras.Sequential([keras.layers.Dense(128, activation="relu"), keras.layers.Dense(10)])
model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))

energy = EnergyCallback()
model.fit(samples, labels, batch_size=64, epochs=3, verbose=0, callbacks=[energy])
for row in energy.history[:-1]:
    print(f"epoch {row['epoch']}: {row['epoch_gross_j']:.3g} J, {row['mean_power_w']:.3g} W")
print(f"fit: {energy.history[-1]['fit_gross_j']:.3g} J")
