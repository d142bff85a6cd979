"""Find the settings that use the least energy within a slow-down that the user accepts.

A *knob* (:mod:`~joulelab.tune.probes`) is a setting with levels, for example a GPU's power limit. A
*search* proposes settings, is given the *probe* of each, a measurement of a short piece of real
work, and ends with a *result* (:mod:`~joulelab.tune.result`). It never measures anything itself:
recorded tables, commands, studies and training loops drive the same searches.
"""
