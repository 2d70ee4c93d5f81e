"""The tracker: swarms, leases, handouts, tags, and the protocol peers speak with it.

May import `shoal` (never `shoal.cli`).
"""
