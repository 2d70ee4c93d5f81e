"""What is written from the code: man pages, completions of shells, and pages of docs/ or parts of them.

Runs in the developers' environment and is no part of the program; it imports all rooms, and nothing imports it.
"""
