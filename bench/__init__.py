"""Measures Shoal against other programs and against bounds, side by side on one machine (design, section 8).

One module for each measurement, what they share beside them. It may import every other room; nothing imports it.
"""
