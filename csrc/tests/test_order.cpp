// The order of samples: permutation, quotas, ranks.
#include <algorithm>
#include <map>
#include <numeric>
#include <set>

#include "sampling/order.hpp"
#include "sampling/permutation.hpp"
#include "tests/check.hpp"

namespace rsdnet::test {
namespace {

std::vector<Due> epoch_of(const Order& order, uint32_t epoch) {
    std::vector<Due> due(order.length());
    order.at(epoch, 0, due.size(), due.data());
    return due;
}

bool same(const Due& one, const Due& other) {
    return one.sample == other.sample && one.repeat == other.repeat;
}

}  // namespace

// By a program of its own, in Python, from the definition: a Feistel network of 8 rounds over
// max(8, bits of n - 1) bits, keys from Philox, MurmurHash3's finaliser, cycle walking.
TEST(permutations_are_the_golden_ones) {
    struct Golden {
        uint64_t seed;
        uint32_t epoch, which;
        uint64_t n;
        std::vector<std::pair<uint64_t, uint64_t>> places;
    };
    const uint64_t all = uint64_t{1} << 32;
    const Golden goldens[] = {
        {0, 0, 0, 10, {{0, 7}, {1, 1}, {2, 2}, {3, 8}, {5, 5}, {9, 6}}},
        {0x123456789abcdef0,
         7,
         0,
         1000,
         {{0, 921}, {1, 109}, {2, 527}, {3, 22}, {9, 746}, {500, 358}, {999, 312}}},
        {42,
         3,
         2,
         all,
         {{0, 3210089240}, {1, 3248869798}, {9, 108929595}, {all / 2, 744556809}, {all - 1, 969734285}}},
        {42,
         3,
         2,
         all / 2 + 1,
         {{0, 1143216322}, {1, 2015590776}, {9, 108929595}, {all / 4, 1881004760}, {all / 2, 744556809}}},
    };
    for (const Golden& golden : goldens) {
        const Permutation permutation(golden.seed, golden.epoch, golden.which, golden.n);
        for (const auto& [from, to] : golden.places) CHECK(permutation(from) == to);
    }
}

TEST(permutations_hit_each_number_once) {
    for (const uint64_t n : {1, 2, 3, 5, 127, 128, 129, 255, 256, 257, 1000, 4095, 4097, 100003}) {
        for (const uint64_t seed : {uint64_t{0}, UINT64_MAX}) {
            const Permutation permutation(seed, 5, 1, n);
            std::vector<bool> hit(n);
            for (uint64_t i = 0; i < n; ++i) {
                const uint64_t to = permutation(i);
                CHECK(to < n && !hit[to]);
                hit[to] = true;
            }
        }
    }
}

TEST(permutations_mix) {
    constexpr uint64_t kCount = 1000, kEpochs = 400;
    std::vector<int> first(kCount);
    double sum = 0;
    for (uint32_t epoch = 0; epoch < kEpochs; ++epoch) {
        const Permutation permutation(7, epoch, 0, kCount);
        ++first[permutation(0)];
        sum += static_cast<double>(permutation(1)) - static_cast<double>(permutation(0));
    }
    CHECK(*std::max_element(first.begin(), first.end()) <= 6);  // 0.4 expected; 7 has a chance below 1e-4
    CHECK(std::abs(sum / kEpochs) < 80);                        // six standard deviations are 122
}

TEST(an_epoch_visits_every_sample_once) {
    const Order order(3, {10, 0, 25, 7}, {10, 0, 25, 7});
    CHECK(order.length() == 42 && order.most_repeats() == 1);
    std::vector<uint32_t> before;
    for (uint32_t epoch = 0; epoch < 5; ++epoch) {
        std::vector<uint32_t> samples;
        for (const Due& due : epoch_of(order, epoch)) {
            CHECK(due.repeat == 0);
            samples.push_back(due.sample);
        }
        CHECK(samples != before);
        before = samples;
        std::sort(samples.begin(), samples.end());
        for (uint32_t i = 0; i < 42; ++i) CHECK(samples[i] == i);
    }
}

TEST(quotas_visit_all_samples_of_a_database_equally_often) {
    const std::vector<uint64_t> counts = {5, 12, 3}, quotas = {17, 4, 3};
    const Order order(11, counts, quotas);
    CHECK(order.length() == 24);
    std::vector<uint64_t> visits(20);
    for (uint32_t epoch = 0; epoch < 60; ++epoch) {
        std::set<std::pair<uint32_t, uint32_t>> seen;
        std::vector<uint64_t> per_database(3);
        for (const Due& due : epoch_of(order, epoch)) {
            CHECK(due.repeat < order.most_repeats());
            CHECK(seen.insert({due.sample, due.repeat}).second);  // drawn anew each time it comes
            ++per_database[due.sample < 5 ? 0 : due.sample < 17 ? 1 : 2];
            ++visits[due.sample];
        }
        CHECK(per_database == quotas);
        for (size_t d = 0, first = 0; d < 3; first += counts[d++]) {
            const auto [least, most] =
                std::minmax_element(visits.begin() + first, visits.begin() + first + counts[d]);
            CHECK(*most - *least <= 1);
        }
    }
}

TEST(a_part_of_an_epoch_is_that_part_of_it) {
    const Order order(1, {30, 9}, {30, 20});
    const std::vector<Due> whole = epoch_of(order, 2);
    for (uint64_t first = 0; first < 50; first += 7) {
        std::vector<Due> part(std::min<uint64_t>(13, 50 - first));
        order.at(2, first, part.size(), part.data());
        CHECK(std::equal(part.begin(), part.end(), whole.begin() + static_cast<ptrdiff_t>(first), same));
    }
}

TEST(ranks_share_the_batches_of_one) {
    for (const uint64_t length : {1, 7, 8, 63, 64, 65, 100}) {
        for (const uint64_t world : {1, 2, 4, 8}) {
            for (const bool drop_last : {true, false}) {
                const uint64_t global = 8;
                const Partition one = {global, 0, 1, drop_last};
                uint64_t position = 0;
                for (uint64_t step = 0; step < one.steps(length); ++step) {
                    for (uint64_t rank = 0; rank < world; ++rank) {
                        const Partition partition = {global / world, rank, world, drop_last};
                        CHECK(partition.steps(length) == one.steps(length));
                        const Partition::Range range = partition.range(length, step);
                        CHECK(range.first == position && range.count <= partition.batch);
                        position += range.count;
                    }
                    const Partition::Range whole = one.range(length, step);
                    CHECK(position == whole.first + whole.count);
                }
                CHECK(position == (drop_last ? length / global * global : length));
            }
        }
    }
}

TEST(the_ragged_end_is_shared_evenly) {
    for (uint64_t rank = 0; rank < 4; ++rank) {
        const Partition partition = {8, rank, 4, false};  // 6 positions are left of 38
        CHECK(partition.steps(38) == 2);
        const uint64_t count = partition.range(38, 1).count;
        CHECK(count == 1 || count == 2);
    }
    CHECK((Partition{8, 0, 4, false}.range(33, 1).count == 0));  // a rank may have none
    CHECK((Partition{8, 3, 4, false}.range(33, 1).count == 1));
}

}  // namespace rsdnet::test
