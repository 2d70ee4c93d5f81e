"""The page to look at: its files, what is pushed to those who look, and how a browser signs in.

May import the rest of `supernode` but its `daemon` and `settings`, which alone of `supernode` import it.
"""
