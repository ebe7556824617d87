"""Data in WebDataset shards: tar files with one member per modality and item, which are read without a copy of them."""
