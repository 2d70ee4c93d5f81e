"""Faults in the middle of pulls, through real processes: `make faults` runs all of it, `make test` a short form.

A scenario (`members`, `links`, `neighbours`, `origins`, `disks`, `hostile`, `versions`) does one thing to a `world`
while `clients` pull; `run` judges every run in the same way. Nothing here is imported by another folder.
"""
