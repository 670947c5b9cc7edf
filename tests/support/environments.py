"""Environments for processes that tests start."""

import os


def compiling() -> dict[str, str]:
    """This process's without TRITON_INTERPRET, which conftest.py sets: ops on a CPU are references."""
    return {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
