#include <random>

#include "read/blocks.hpp"
#include "tests/check.hpp"
#include "tests/samples.hpp"

namespace rsdnet::test {

TEST(blocks_are_copied_whole_at_any_length_and_place) {
    std::mt19937_64 random(1);
    for (const size_t bytes : {1, 15, 16, 63, 64, 65, 127, 800, 2047, 2048, 2111, 2112, 2113, 4096, 28800}) {
        for (const size_t from : {0, 1, 7}) {
            for (const size_t to : {0, 16, 3}) {
                for (const Stores stores : {Stores::kCached, Stores::kStreaming}) {
                    std::vector<uint8_t> source(from + bytes),
                        target(16 * (1 + to / 16) + to % 16 + bytes + 16, 0xAB);
                    for (uint8_t& byte : source) byte = static_cast<uint8_t>(random());
                    uint8_t* const place = target.data() + to;
                    copy_block(place, source.data() + from, bytes, stores);  // ASan sees a byte read too many
                    fence_stores();
                    CHECK(std::memcmp(place, source.data() + from, bytes) == 0);
                    for (size_t i = 0; i < target.size(); ++i) {
                        CHECK((i >= to && i < to + bytes) ||
                              target[i] == 0xAB);  // and none written beside it
                    }
                }
            }
        }
    }
}

}  // namespace rsdnet::test
