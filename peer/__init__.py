"""One node's daemon

the blob store, the piece engine and the wire protocol between peers.:May import `supernode.protocol`, `supernode.client` and `shoal` (never `shoal.cli`).
"""
