"""Synthetic Sentinel-1/2 scenes, and the demo database made of them.

fields, materials -> land_cover, patterns -> optical, radar -> world -> geotiffs -> demo.
"""
