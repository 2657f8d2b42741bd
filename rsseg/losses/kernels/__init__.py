"""The kernels of `triton_pass`, which says what they are for. Importing them needs Triton.

A program works through `steps` tiles ``[CLASSES, BLOCK]`` of one image: rows are classes, C of them and the rest padding
up to a power of 2; columns are pixels. It keeps its sums to itself until it writes them to its own place, so that nothing
is added in an order that could change. ``SOFT``, ``NLL``, ``SPREAD`` and ``FOCAL`` are the rows of these sums in
``[K, 2, ...]``, -1 for one that is not wanted; row 0 is ``count``.
"""
