// Philox4x32-10: a counter-based random number generator (Salmon et al. 2011, "Parallel random numbers: as
// easy as 1, 2, 3", SC11, section 3.3 and table 2). A pure function of key and counter.
#pragma once

#include <array>
#include <cstdint>

namespace rsdnet {

using PhiloxCounter = std::array<uint32_t, 4>;
using PhiloxKey = std::array<uint32_t, 2>;

inline PhiloxCounter philox(PhiloxKey key, PhiloxCounter counter) {
    constexpr uint32_t kMultiplier0 = 0xD2511F53, kMultiplier1 = 0xCD9E8D57;  // Random123, philox.h
    constexpr uint32_t kWeyl0 = 0x9E3779B9, kWeyl1 = 0xBB67AE85;              // golden ratio, sqrt(3) - 1
    constexpr int kRounds = 10;
    for (int round = 0; round < kRounds; ++round) {
        const uint64_t product0 = static_cast<uint64_t>(kMultiplier0) * counter[0];
        const uint64_t product1 = static_cast<uint64_t>(kMultiplier1) * counter[2];
        counter = {
            static_cast<uint32_t>(product1 >> 32) ^ counter[1] ^ key[0], static_cast<uint32_t>(product1),
            static_cast<uint32_t>(product0 >> 32) ^ counter[3] ^ key[1], static_cast<uint32_t>(product0)};
        key = {key[0] + kWeyl0, key[1] + kWeyl1};
    }
    return counter;
}

// An integer in [0, n) from a uniform word: the high half of the product (Lemire 2019, without rejection).
inline uint32_t philox_pick(uint32_t word, uint32_t n) {
    return static_cast<uint32_t>((static_cast<uint64_t>(word) * n) >> 32);
}

}  // namespace rsdnet
