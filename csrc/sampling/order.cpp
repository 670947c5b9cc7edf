#include "sampling/order.hpp"

#include <algorithm>
#include <utility>

#include "sampling/permutation.hpp"

namespace rsdnet {

Order::Order(uint64_t seed, std::vector<uint64_t> counts, std::vector<uint64_t> quotas)
    : seed_(seed), counts_(std::move(counts)), quotas_(std::move(quotas)) {
    uint64_t samples = 0;
    for (size_t d = 0; d < counts_.size(); ++d) {
        first_sample_.push_back(samples);
        first_position_.push_back(length_);
        samples += counts_[d];
        length_ += quotas_[d];
    }
}

uint32_t Order::most_repeats() const {
    uint64_t most = 1;
    for (size_t d = 0; d < counts_.size(); ++d) {
        if (quotas_[d] != counts_[d] && quotas_[d] > 0) most = std::max(most, quotas_[d] / counts_[d] + 2);
    }
    return static_cast<uint32_t>(most);
}

void Order::at(uint32_t epoch, uint64_t first, uint64_t count, Due* out) const {
    constexpr uint32_t kAll = 0, kOwn = 1;  // permutations of one epoch or round: over all, and per database
    const Permutation all(seed_, epoch, kAll, length_);
    for (uint64_t position = first; position < first + count; ++position) {
        const uint64_t place = all(position);
        const auto after = std::upper_bound(first_position_.begin(), first_position_.end(), place);
        const auto d = static_cast<size_t>(after - first_position_.begin()) - 1;
        uint64_t sample = place - first_position_[d], repeat = 0;
        if (quotas_[d] != counts_[d]) {
            const uint64_t before = epoch * quotas_[d], dealt = before + sample;
            const uint64_t round = dealt / counts_[d];
            const Permutation own(seed_, static_cast<uint32_t>(round), kOwn + static_cast<uint32_t>(d),
                                  counts_[d]);
            sample = own(dealt % counts_[d]);
            repeat = round - before / counts_[d];
        }
        *out++ = {static_cast<uint32_t>(first_sample_[d] + sample), static_cast<uint32_t>(repeat)};
    }
}

uint64_t Partition::steps(uint64_t length) const {
    const uint64_t global = batch * world;
    return drop_last ? length / global : (length + global - 1) / global;
}

Partition::Range Partition::range(uint64_t length, uint64_t step) const {
    const uint64_t begin = step * batch * world;
    const uint64_t left = std::min(batch * world, length - begin);
    if (left == batch * world) return {begin + rank * batch, batch};
    const uint64_t first = left * rank / world, last = left * (rank + 1) / world;
    return {begin + first, last - first};
}

}  // namespace rsdnet
