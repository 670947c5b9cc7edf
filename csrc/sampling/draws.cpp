#include "sampling/draws.hpp"

#include <algorithm>

#include "sampling/philox.hpp"

namespace rsdnet {
namespace {

// Streams of Philox; the others: kernels/philox.py, permutation.hpp.
constexpr uint32_t kPairStream = 0;     // order of the two sensors; always drawn with view 0
constexpr uint32_t kPartnerStream = 5;  // acquisition of a place
constexpr uint32_t kBandStream = 8;     // + channel / 4

PhiloxKey key_of(uint64_t seed) {
    return {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)};
}

bool shows_sar(const BandDraw& draw, PhiloxKey key, uint32_t sample, uint32_t view) {
    if (draw.modality != Modality::kMsAndSar) return draw.modality == Modality::kSar;
    const uint32_t order = philox(key, {sample, draw.epoch, 0, kPairStream})[0] & 1;
    return ((view + order) & 1) != 0;
}

// Draws without replacement while the pool lasts, then starts a new round. `picked` is scratch, ascending.
void draw_view(const BandDraw& draw, PhiloxKey key, uint32_t sample, uint32_t view,
               std::vector<uint32_t>& picked, int32_t* bands) {
    const bool sar = shows_sar(draw, key, sample, view);
    const auto& fixed = sar ? draw.sar_view : draw.ms_view;
    if (!fixed.empty()) {
        std::copy(fixed.begin(), fixed.end(), bands);
        return;
    }
    const auto& pool = sar ? draw.sar_pool : draw.ms_pool;
    const auto n = static_cast<uint32_t>(pool.size());
    PhiloxCounter words{};
    for (uint32_t channel = 0; channel < draw.channels; ++channel) {
        if (channel % 4 == 0) words = philox(key, {sample, draw.epoch, view, kBandStream + channel / 4});
        if (channel % n == 0) picked.clear();
        uint32_t position = philox_pick(words[channel % 4], n - channel % n);
        for (const uint32_t earlier : picked) position += position >= earlier;
        picked.insert(std::upper_bound(picked.begin(), picked.end(), position), position);
        bands[channel] = pool[position];
    }
}

}  // namespace

void draw_bands(const BandDraw& draw, const uint32_t* samples, size_t count, int32_t* bands,
                std::vector<uint32_t>& scratch) {
    const PhiloxKey key = key_of(draw.seed);
    for (size_t row = 0; row < count; ++row) {
        for (uint32_t view = 0; view < draw.views; ++view) {
            draw_view(draw, key, samples[row], view, scratch, bands);
            bands += draw.channels;
        }
    }
}

bool is_permutation(const std::vector<uint32_t>& next) {
    std::vector<bool> seen(next.size(), false);
    for (const uint32_t position : next) {
        if (position >= next.size() || seen[position]) return false;
        seen[position] = true;
    }
    return true;
}

uint32_t draw_partner(const std::vector<uint32_t>& next, uint64_t seed, uint32_t epoch, uint32_t number,
                      uint32_t sample, uint32_t view) {
    uint32_t others = 0;
    for (uint32_t other = next[sample]; other != sample; other = next[other]) ++others;
    if (view == 0 || others == 0) return sample;
    const uint32_t word = philox(key_of(seed), {number, epoch, view, kPartnerStream})[0];
    uint32_t partner = next[sample];
    for (uint32_t steps = philox_pick(word, others); steps > 0; --steps) partner = next[partner];
    return partner;
}

}  // namespace rsdnet
