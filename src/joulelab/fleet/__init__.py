"""Engines that spread a study over hosts: Slurm and Ray behind :mod:`joulelab.study.engine`.

A host runs a share of the study in a temporary directory of its own and reports what becomes of it
as bytes, with the directory of each finished run. Only the process that runs the study writes its
directory. So a record is stored once, however many hosts measured that cell.
"""
