"""The ops of rsdnet.kernels, each beside its reference and the public peers; `bench_ops.py` runs them."""
