// A random permutation of range(n), n up to 2^32, in O(1) memory: a pure function of (seed, epoch, which, n).
//
// A Feistel network (Luby and Rackoff 1988) over the next power of two, walked until it lands inside the
// range (Black and Rogaway 2002, "Ciphers with arbitrary finite domains", cycle walking). Its round keys are
// words of Philox; its round function is MurmurHash3's 32-bit finaliser of (half ^ key).
#pragma once

#include <cstdint>

#include "sampling/philox.hpp"

namespace rsdnet {

class Permutation {
  public:
    // `which` tells apart the permutations of one (seed, epoch).
    Permutation(uint64_t seed, uint32_t epoch, uint32_t which, uint64_t n) : n_(n) {
        const PhiloxKey key = {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)};
        for (uint32_t quarter = 0; quarter < 2; ++quarter) {
            const PhiloxCounter words = philox(key, {quarter, epoch, which, kOrderStream});
            for (uint32_t i = 0; i < 4; ++i) keys_[4 * quarter + i] = words[i];
        }
        uint32_t bits = kFewestBits;
        while (bits < 32 && (n - 1) >> bits != 0) ++bits;
        low_bits_ = bits - bits / 2;
        low_mask_ = (1u << low_bits_) - 1;
        high_mask_ = (1u << bits / 2) - 1;
    }

    // Where position `position` < n goes.
    uint64_t operator()(uint64_t position) const {
        auto low = static_cast<uint32_t>(position) & low_mask_;
        auto high = static_cast<uint32_t>(position >> low_bits_);
        for (;;) {
            for (uint32_t round = 0; round < kRounds; round += 2) {
                high ^= mix(low ^ keys_[round]) & high_mask_;
                low ^= mix(high ^ keys_[round + 1]) & low_mask_;
            }
            const uint64_t to = static_cast<uint64_t>(high) << low_bits_ | low;
            if (to < n_) return to;
        }
    }

  private:
    static constexpr uint32_t kOrderStream = 4;  // of Philox; those of the draws are in draws.cpp
    static constexpr uint32_t kRounds = 8;
    static constexpr uint32_t kFewestBits = 8;  // halves of fewer than 4 bits mix badly

    static uint32_t mix(uint32_t x) {  // MurmurHash3 (Appleby), fmix32
        x ^= x >> 16, x *= 0x85EBCA6Bu;
        x ^= x >> 13, x *= 0xC2B2AE35u;
        return x ^ x >> 16;
    }

    uint64_t n_;
    uint32_t keys_[kRounds], low_bits_, low_mask_, high_mask_;
};

}  // namespace rsdnet
