"""The commit that runs."""

import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def commit() -> str:
    """The commit of this code, with a + where the working tree differs.

    RSDNET_COMMIT names that of a copy without git; "unknown" without either, and of an installed package.
    """
    if told := os.environ.get("RSDNET_COMMIT"):
        return told
    if not (ROOT / ".git").exists():  # a repository further up is another one
        return "unknown"
    words = ["git", "-C", str(ROOT), "describe", "--always", "--dirty=+"]
    try:
        return subprocess.run(words, capture_output=True, text=True, check=False).stdout.strip() or "unknown"
    except OSError:
        return "unknown"
