"""GeoTIFFs to a database: `python -m rsdnet.ingest LAYOUT SOURCE DB`."""
