"""The tracker of swarms

state, leases, handouts, tag resolution, its control protocol and client.:May import `shoal` (never `shoal.cli`).
"""
