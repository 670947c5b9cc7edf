#include "read/meter.hpp"

#include <chrono>
#include <cstring>
#include <vector>

#include "read/pool.hpp"

namespace rsdnet {
namespace {

using Clock = std::chrono::steady_clock;

double since(Clock::time_point began) {
    return std::chrono::duration<double>(Clock::now() - began).count();
}

// One thread's share, until the time is over. Returns the bytes it copied.
uint64_t copy_share(const uint8_t* source, const Block* blocks, size_t count, size_t first, size_t stride,
                    uint8_t* out, size_t out_bytes, Clock::time_point began, double seconds) {
    constexpr size_t kBetweenLooks = 64;  // at the clock
    uint64_t copied = 0;
    size_t to = 0, index = first % count;
    do {  // once at least, however late this thread comes to run
        for (size_t i = 0; i < kBetweenLooks; ++i) {
            const Block& block = blocks[index];
            if (to + block.bytes > out_bytes) to = 0;
            std::memcpy(out + to, source + block.offset, block.bytes);
            to += block.bytes, copied += block.bytes;
            index = (index + stride) % count;
        }
    } while (since(began) < seconds);
    return copied;
}

}  // namespace

Copied copy_blocks(const uint8_t* source, const Block* blocks, size_t count, uint8_t* out, size_t out_bytes,
                   int threads, double seconds) {
    const auto workers = static_cast<size_t>(threads);
    const size_t part = out_bytes / workers;
    std::vector<uint64_t> copied(workers);
    Pool pool(threads);
    const Clock::time_point began = Clock::now();
    pool.run(workers, 1, [&](int, size_t share, size_t) {
        copied[share] =
            copy_share(source, blocks, count, share, workers, out + share * part, part, began, seconds);
    });
    const double took = since(began);
    uint64_t bytes = 0;
    for (const uint64_t share : copied) bytes += share;
    return {bytes, took};
}

}  // namespace rsdnet
