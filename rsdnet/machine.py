"""What this machine has free, and how to say it."""

from pathlib import Path

# A container's limit, its usage, and what of that is page cache: control groups of version 2, of version 1.
_GROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory.stat"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes",
     "/sys/fs/cgroup/memory/memory.stat"),
)  # fmt: skip
_DEVICES = ("nvidia[0-9]*", "kfd", "dxg")  # NVIDIA, AMD, either under WSL


def free_memory() -> int:
    """Bytes of RAM that can be had, within this container's limit. The page cache counts: the kernel gives it back."""
    lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    free = int(lines["MemAvailable"].split()[0]) << 10
    for limit, usage, stat in _GROUPS:
        try:
            room, used = int(Path(limit).read_text()), int(Path(usage).read_text())
            cache = dict(line.split() for line in Path(stat).read_text().splitlines())
        except (OSError, ValueError):  # no such group, or no limit
            continue
        free = min(free, room - used + int(cache.get("inactive_file", 0)))
    return max(free, 0)


def gpu_memory() -> tuple[str, int] | None:
    """Name and free bytes of the GPU; None without one. PyTorch, slow to import, is asked only where there may be."""
    if not any(any(Path("/dev").glob(pattern)) for pattern in _DEVICES):
        return None
    import torch

    if not torch.cuda.is_available():
        return None
    return torch.cuda.get_device_name(), int(torch.cuda.mem_get_info()[0])


def size(count: float) -> str:
    """Bytes as people read them: 3.2 GB."""
    for unit in ("bytes", "KB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def percent(share: float) -> str:
    """A share as people read it: 83 %."""
    return f"{100 * share:.0f} %"
