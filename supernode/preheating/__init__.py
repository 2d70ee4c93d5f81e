"""Preheating: images that nodes are to have before a client asks for them, by order, by schedule, or when pushed.

May import the rest of `supernode` but its `daemon` and `settings`, which alone of `supernode` import it.
"""
