#include <atomic>
#include <numeric>
#include <stdexcept>

#include "read/pool.hpp"
#include "tests/check.hpp"

namespace rsdnet::test {

TEST(a_pool_does_each_item_once) {
    for (const int threads : {1, 2, 8}) {
        Pool pool(threads);
        for (const size_t count : {0, 1, 2, 31, 1000}) {
            for (const size_t chunk : {1, 7, 5000}) {
                std::vector<int> times(count, 0);
                pool.run(count, chunk, [&](int worker, size_t begin, size_t end) {
                    CHECK(worker >= 0 && worker < pool.threads() && begin < end && end - begin <= chunk);
                    for (size_t i = begin; i < end; ++i) ++times[i];
                });
                CHECK(times == std::vector<int>(count, 1));
            }
        }
    }
}

TEST(a_pool_under_stress_loses_nothing) {
    Pool pool(6);
    std::vector<uint64_t> sums(static_cast<size_t>(pool.threads()));
    constexpr uint64_t kRounds = 3000, kCount = 64;
    for (uint64_t round = 0; round < kRounds; ++round) {
        pool.run(kCount, 1,
                 [&](int worker, size_t begin, size_t) { sums[static_cast<size_t>(worker)] += begin; });
    }
    CHECK(std::accumulate(sums.begin(), sums.end(), uint64_t{0}) == kRounds * kCount * (kCount - 1) / 2);
}

TEST(the_lowest_error_of_a_pool_is_thrown_whatever_the_timing) {
    Pool pool(8);
    for (int round = 0; round < 500; ++round) {
        const std::string message = error_of([&] {
            pool.run(100, 1, [&](int, size_t begin, size_t) {
                if (begin >= 40 && begin % 3 == 2) throw Error("item " + std::to_string(begin));
            });
        });
        CHECK(message == "item 41");
        std::atomic<int> done{0};
        pool.run(10, 1, [&](int, size_t, size_t) { ++done; });  // and it works on
        CHECK(done == 10);
    }
}

TEST(any_exception_leaves_a_pool) {
    Pool pool(3);
    try {
        pool.run(9, 1, [](int, size_t, size_t) { throw std::bad_alloc(); });
        CHECK(!"thrown");
    } catch (const std::bad_alloc&) {
    }
}

TEST(pools_start_and_stop) {
    for (int round = 0; round < 200; ++round) {
        Pool pool(4);
        if (round % 2) pool.run(2, 1, [](int, size_t, size_t) {});
    }
}

}  // namespace rsdnet::test
