"""Synthetic Sentinel-1/2 scenes, and the demo database made of them.

fields, materials -> land_cover, patterns -> sensors -> world -> geotiffs -> demo.
"""
