"""Energy in PyTorch Lightning (the package ``pytorch_lightning``)."""

from joulelab.integrations.lightning import make_callback

EnergyCallback = make_callback("pytorch_lightning", install="pytorch-lightning")
