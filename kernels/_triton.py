"""Triton if it is installed; else stand-ins with which kernels can be defined (torch's CPU wheels come without it).

Kernel files do `from ._triton import tl, triton`. Without Triton `HAS_TRITON` is false, kernels are inert functions and
ops run their references.
"""

from typing import Any

try:
    import triton
    import triton.language as tl

    HAS_TRITON = True
except ImportError:
    HAS_TRITON = False

    class _Absent:
        """Stands for `triton` and `tl`: any attribute exists, and as a decorator it returns the function."""

        def __getattr__(self, name: str) -> "_Absent":
            return self

        def __call__(self, *args: Any, **options: Any) -> Any:
            return args[0] if args and callable(args[0]) else self

    triton = tl = _Absent()

__all__ = ["HAS_TRITON", "tl", "triton"]
