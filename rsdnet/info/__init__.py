"""The state of a database: `python -m rsdnet.info DB`."""
