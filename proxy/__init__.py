"""The registry front end: the distribution API, upstream registries and their authentication, tags.

May import `peer`, `supernode.protocol`, `supernode.client` and `shoal` (never `shoal.cli`).
"""
