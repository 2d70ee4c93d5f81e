"""Fuzzing: whatever bytes come from outside, the code that reads them says no in its own words, in time and in memory.

A target (`tests.fuzz.target`) is a function of bytes. `make test` gives each target the inputs that are kept in
`corpus/` and some made from them (`test_targets.py`), `make fuzz` gives all of them a million inputs that coverage
guides (`__main__.py`).
"""
