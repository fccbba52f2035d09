"""Looking at a dataset: rows worth seeing, distributions of columns, thumbnails, maps.

What reports and notebooks show is computed here; how it looks is theirs.
"""
