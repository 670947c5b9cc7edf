"""Triton where it is installed; elsewhere (CPU wheels of torch come without) names enough to define a kernel.

Every kernel file does `from ._triton import tl, triton`. Without Triton a kernel is an inert function and
`HAS_TRITON` is false: the op's CPU branch, its reference, is the only one that can be reached.
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
