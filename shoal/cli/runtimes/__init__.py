"""Container runtimes, and the files of theirs that name a mirror.

A module for each runtime, and what they share: the host's files, a plan of changes, edits that can be taken out again.
Imports the configuration of the proxy and the bottom of `shoal`, and nothing that runs a daemon.
"""
