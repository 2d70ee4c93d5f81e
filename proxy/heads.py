"""How large the head of a client's request may be."""

MAX_FIELD_SIZE = 32 << 10
"""Bytes of one header: podman names up to 1024 ranges at once, of 25 bytes each."""

MAX_HEADERS = 32
"""Clients send a dozen. Together with the above it bounds what a head that is never whole can hold: 1 MiB."""
