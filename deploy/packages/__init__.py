"""What is given out of a build: wheel, sources, one-file programs, a bill of materials, and the sums of all.

Runs in the developers' environment (`make dist`), and is no part of what it builds.
"""
