"""The vocabulary that all rooms speak: digests, references, descriptors, ranges, framing, settings.

Imports no other package of the project; `shoal.cli`, at the top, composes all of them.
"""
