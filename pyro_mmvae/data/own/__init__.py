"""Data of the user: arrays, folders and archives of arrays, items of any iterable, and omics files."""
