"""One node's part of the swarm: the blob store, the piece engine and the protocol between peers.

May import `supernode.protocol`, `supernode.client` and `shoal` (never `shoal.cli`).
"""
