"""Data sets of the user's own: folders and archives of arrays, items, and omics files."""
