// What this machine's memory gives: the measure that reading is held against.
#pragma once

#include <cstddef>
#include <cstdint>

namespace rsdnet {

// A block to copy: bytes of a source.
struct Block {
    uint64_t offset, bytes;
};

struct Copied {
    uint64_t bytes;
    double seconds;
};

// Copies blocks of `source` into `out` with memcpy, over and over, on `threads` threads for `seconds`. Each
// thread takes every threads-th block, and fills a part of `out` of its own from front to back.
// No block may be larger than such a part, out_bytes / threads.
Copied copy_blocks(const uint8_t* source, const Block* blocks, size_t count, uint8_t* out, size_t out_bytes,
                   int threads, double seconds);

}  // namespace rsdnet
