// What the fuzz targets share: a check that ends the process, a check of messages, and dice for the mutators.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "error.hpp"

// The interface of libFuzzer (LLVM, docs/LibFuzzer). driver.cpp has the same where there is none.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);
extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size, unsigned seed);
extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t max_size);

#define REQUIRE(condition)                                                                     \
    do {                                                                                       \
        if (!(condition)) {                                                                    \
            std::fprintf(stderr, "%s:%d: %s does not hold\n", __FILE__, __LINE__, #condition); \
            std::abort();                                                                      \
        }                                                                                      \
    } while (false)

namespace rsdnet::fuzz {

// A message is one line of UTF-8 without control characters, whatever the file holds.
inline void check_message(std::string_view message) {
    REQUIRE(!message.empty() && message.size() < 4096 && is_utf8(message));
    for (const char symbol : message) REQUIRE(static_cast<uint8_t>(symbol) >= 0x20 && symbol != 0x7F);
}

// SplitMix64 (Steele et al. 2014): mutations are a function of libFuzzer's seed.
class Dice {
  public:
    explicit Dice(uint64_t seed) : state_(seed) {}

    uint64_t word() {
        uint64_t z = state_ += 0x9E3779B97F4A7C15u;
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
        z = (z ^ z >> 27) * 0x94D049BB133111EBu;
        return z ^ z >> 31;
    }
    // In [0, n); 0 for n = 0.
    size_t below(size_t n) { return n ? static_cast<size_t>(word() % n) : 0; }
    // A number of the kind that breaks bounds: near 0, near `size`, near a power of two, or any.
    uint64_t number(uint64_t size) {
        const uint64_t near = below(5) - 2;
        switch (below(5)) {
            case 0:
                return below(20);
            case 1:
                return size + near;
            case 2:
                return (uint64_t{1} << below(64)) + near;
            case 3:
                return below(static_cast<size_t>(size) + 1);
            default:
                return word() >> below(64);
        }
    }

  private:
    uint64_t state_;
};

// libFuzzer's own mutation of a part.
inline std::string mutated(const std::string& part, size_t most) {
    std::string buffer = part;
    buffer.resize(most > part.size() ? most : part.size());
    buffer.resize(LLVMFuzzerMutate(reinterpret_cast<uint8_t*>(buffer.data()), part.size(), buffer.size()));
    return buffer;
}

}  // namespace rsdnet::fuzz
