"""Embedding of scenes and databases: `python -m rsdnet.embed`."""
