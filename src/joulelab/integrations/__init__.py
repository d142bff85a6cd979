"""Energy in the training frameworks that people use.

A module a framework, imported by its own name, since each needs a package that JouleLab does not::

    from joulelab.integrations.lightning import EnergyCallback
    from joulelab.integrations.pytorch_lightning import EnergyCallback
    from joulelab.integrations.transformers import EnergyCallback
    from joulelab.integrations.keras import EnergyCallback
"""
