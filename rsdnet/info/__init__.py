"""The contents of a database, and how fast this machine reads it: `python -m rsdnet.info DB`."""
