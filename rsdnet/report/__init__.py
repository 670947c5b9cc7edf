"""The report of a run, or of two side by side: `python -m rsdnet.report RUN [RUN]` makes one HTML page.

record: what a run left in its folder. summary: that in words. charts, gallery: its pictures. page: the page.
"""
