"""Self-supervised methods: each is one file, by the contract in base.py, and one line here."""

from rsdnet.methods.base import Method
from rsdnet.registry import Registry

METHODS: Registry[type[Method]] = Registry(
    "method",
    {
        "byol": "rsdnet.methods.byol:BYOL",
        "simsiam": "rsdnet.methods.simsiam:SimSiam",
    },
)
