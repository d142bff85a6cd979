"""What every test needs, those in docstrings included."""

import os

# Without it Keras wants TensorFlow.
os.environ.setdefault("KERAS_BACKEND", "torch")
