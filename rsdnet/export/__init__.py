"""Export of an encoder to other libraries, with a model card: `python -m rsdnet.export`."""
