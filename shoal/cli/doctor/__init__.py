"""`shoal doctor`: looks at the whole way of a pull, and says of each fault what to do about it.

A module for each part of the way. In each a function without I/O says what facts mean, and another one gathers them.
Imports all that a node and a client need, and no daemon.
"""
