"""What is free, and how to say it."""

from pathlib import Path

import torch

_CGROUPS = (  # limit and usage of this container: version 2, version 1
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory.stat"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes",
     "/sys/fs/cgroup/memory/memory.stat"),
)  # fmt: skip


def free_bytes(device: torch.device) -> int:
    """Bytes that can still be taken: of the GPU, or of host memory within the container's limit.

    The page cache counts as free: the kernel gives it back.
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    free = _meminfo("MemAvailable")
    for limit, usage, stat in _CGROUPS:
        room = _number(limit)
        if room is not None:
            free = min(free, room - (_number(usage) or 0) + _file_cache(stat))
    return max(free, 0)


def size(count: float) -> str:
    """Bytes as people read them: 3.2 GB."""
    for unit in ("bytes", "KB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def _meminfo(name: str) -> int:
    """A line of /proc/meminfo, in bytes."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) << 10
    return 1 << 62  # a kernel that does not say


def _number(path: str) -> int | None:
    """The number in a file of the kernel; None where there is none ("max"), or no file."""
    try:
        return int(Path(path).read_text())
    except (OSError, ValueError):
        return None


def _file_cache(stat: str) -> int:
    """Bytes of page cache that the container's usage includes and that can be dropped."""
    try:
        lines = dict(line.split() for line in Path(stat).read_text().splitlines())
    except (OSError, ValueError):
        return 0
    return int(lines.get("inactive_file", lines.get("total_inactive_file", 0)))
