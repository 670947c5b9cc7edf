"""rsdnet: fast BYOL pre-training on Sentinel-1/2 patches (Jain et al. 2022, arXiv 2205.02049)."""

__version__ = "0.1.0"
