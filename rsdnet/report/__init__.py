"""The report of a run, or of two side by side, as one HTML page: `python -m rsdnet.report RUN [RUN]`."""
