"""Adoption of a database that rico-hdl wrote, in place: `python -m rsdnet.catalog LAYOUT DB`."""
