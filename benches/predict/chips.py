"""What a GPU has: a multiprocessor's limits, for occupancy, and the rates of those whose times are predicted."""

from typing import NamedTuple

from triton.backends.compiler import GPUTarget

PARTITIONS, LANE_REGISTERS, REGISTER_GRANULE = 4, 512, 8


class Chip(NamedTuple):
    """A multiprocessor's limits: resident warps and blocks, bytes of shared memory, bytes of it that a block wastes."""

    target: GPUTarget
    warps: int
    blocks: int
    shared: int
    granule: int
    reserved: int


# NVIDIA: CUDA C++ Programming Guide, "Technical Specifications per Compute Capability"; 65,536 registers are 4 x 512 x
# 32 lanes; 1 KB of shared memory a block is the system's (Ampere and Hopper Tuning Guides, "Unified Shared Memory").
# AMD: LLVM, lib/Target/AMDGPU/Utils/AMDGPUBaseInfo.cpp for gfx90a and later: getMaxWavesPerEU, getEUsPerCU,
# getTotalNumVGPRs, getVGPRAllocGranule, getMaxWorkGroupsPerCU, getLocalMemorySize.
CHIPS = {
    "cuda:80": Chip(GPUTarget("cuda", 80, 32), 64, 32, 164 << 10, 128, 1 << 10),
    "cuda:90": Chip(GPUTarget("cuda", 90, 32), 64, 32, 228 << 10, 128, 1 << 10),
    "cuda:100": Chip(GPUTarget("cuda", 100, 32), 64, 32, 228 << 10, 128, 1 << 10),
    "hip:gfx942": Chip(GPUTarget("hip", "gfx942", 64), 32, 16, 64 << 10, 512, 0),
}


def resident(chip: Chip, registers: int, shared: int, warps: int) -> tuple[int, int]:
    """Blocks and warps that a multiprocessor holds at once, for a kernel of so many registers a thread.

    As NVIDIA's occupancy calculator estimates it: a multiprocessor has four partitions, each with 512 registers for
    every lane of a warp, handed out in eights; AMD's compute units are built to the same numbers.
    """
    rounded = -(-max(registers, 1) // REGISTER_GRANULE) * REGISTER_GRANULE
    by_registers = PARTITIONS * (LANE_REGISTERS // rounded) // warps
    wasted = -(-shared // chip.granule) * chip.granule + chip.reserved
    by_shared = chip.shared // max(wasted, 1)
    alone = chip.target.backend == "hip" and warps == 1  # a group of one wave needs no barrier, and is not counted
    blocks = min(chip.warps // warps, chip.warps if alone else chip.blocks, by_registers, by_shared)
    return blocks, blocks * warps


class Rates(NamedTuple):
    """target: whose code it runs. copy: bytes a second, read plus written, that a copy reaches. issue: instructions of
    a warp a second. lines: lines of the first-level cache a second. flops: of dense bf16 products a second."""

    target: str
    copy: float
    issue: float
    lines: float
    flops: float


# Both are 132 multiprocessors at up to 1.98 GHz: NVIDIA H100 architecture white paper, table 3, and `nvidia-smi -q -d
# CLOCK`. Each issues 4 instructions of a warp a cycle (CUDA C++ Programming Guide, "Compute Capability 9.0": four
# schedulers) and looks up 4 lines of its cache (NVIDIA, forums.developer.nvidia.com/t/312884: "4 sets x 4 sectors").
# bf16: 989e12 published (H100 and H200 datasheets, without sparsity); 770e12 to 800e12 were measured on an H200, with
# random numbers: the lower is taken for both. Copies: 4.3e12 measured on an H200, of 4.8e12 published. The H100's
# 3.35e12 are published; that a copy reaches the same share of it, 90 %, is assumed.
MULTIPROCESSORS, CLOCK, MEASURED_COPY, PUBLISHED_COPY = 132, 1.98e9, 4.3e12, 4.8e12
CYCLES = MULTIPROCESSORS * CLOCK
RATES = {
    "H100": Rates("cuda:90", 3.35e12 * MEASURED_COPY / PUBLISHED_COPY, 4 * CYCLES, 4 * CYCLES, 770e12),
    "H200": Rates("cuda:90", MEASURED_COPY, 4 * CYCLES, 4 * CYCLES, 770e12),
}
