#include "sampling/draws.hpp"
#include "sampling/philox.hpp"
#include "tests/check.hpp"

namespace rsdnet::test {

// Random123 1.14, tests/kat_vectors: "philox4x32 10".
TEST(philox_gives_the_known_answers) {
    CHECK((philox({0, 0}, {0, 0, 0, 0}) == PhiloxCounter{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
    constexpr uint32_t kOnes = 0xffffffff;
    CHECK((philox({kOnes, kOnes}, {kOnes, kOnes, kOnes, kOnes}) ==
           PhiloxCounter{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
    CHECK((philox({0xa4093822, 0x299f31d0}, {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}) ==
           PhiloxCounter{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(philox_picks_within_its_range) {
    CHECK(philox_pick(0, 7) == 0);
    CHECK(philox_pick(0xffffffff, 7) == 6);
    CHECK(philox_pick(0xffffffff, 1) == 0);
    CHECK(philox_pick(0x80000000, 0xffffffff) == 0x7fffffff);
}

TEST(a_view_of_many_channels_shows_each_band_once_a_round) {
    const BandDraw draw = {5, 3, 2, 7, {10, 20, 30}, {40}, Modality::kMs};
    const uint32_t samples[] = {0, 1, 4000000000u};
    int32_t bands[3 * 2 * 7];
    std::vector<uint32_t> scratch;
    draw_bands(draw, samples, 3, bands, scratch);
    for (int view = 0; view < 6; ++view) {
        for (int round = 0; round < 2; ++round) {
            const int32_t* const three = bands + 7 * view + 3 * round;
            CHECK(three[0] + three[1] + three[2] == 60 && three[0] != three[1] && three[1] != three[2]);
        }
    }
}

TEST(each_pair_of_views_shows_both_sensors) {
    const BandDraw draw = {9, 0, 2, 1, {1, 2}, {13, 14}, Modality::kMsAndSar};
    int sar_first = 0;
    std::vector<uint32_t> scratch;
    for (uint32_t sample = 0; sample < 1000; ++sample) {
        int32_t bands[2];
        draw_bands(draw, &sample, 1, bands, scratch);
        CHECK((bands[0] > 10) != (bands[1] > 10));
        sar_first += bands[0] > 10;
    }
    CHECK(sar_first > 400 && sar_first < 600);
}

TEST(a_partner_is_any_other_sample_of_the_place) {
    const std::vector<uint32_t> next = {2, 1, 4, 3, 0};  // places {0, 2, 4}, {1}, {3}
    CHECK(is_permutation(next) && !is_permutation({1, 1}) && !is_permutation({2, 0}));
    int seen[5] = {};
    for (uint32_t epoch = 0; epoch < 1000; ++epoch) {
        CHECK(draw_partner(next, 7, epoch, 12, 2, 0) == 2 && draw_partner(next, 7, epoch, 12, 3, 1) == 3);
        ++seen[draw_partner(next, 7, epoch, 12, 2, 1)];
    }
    CHECK(seen[0] > 400 && seen[4] > 400 && seen[0] + seen[4] == 1000);
}

TEST(a_view_of_fixed_bands_shows_them_in_order) {
    const BandDraw draw = {9, 0, 2, 3, {4, 2, 3}, {13, 14}, Modality::kMsAndSar, {4, 2, 3}, {14, 13, 14}};
    std::vector<uint32_t> scratch;
    for (uint32_t sample = 0; sample < 100; ++sample) {
        int32_t bands[6];
        draw_bands(draw, &sample, 1, bands, scratch);
        const int32_t* const ms = bands[0] < 10 ? bands : bands + 3;
        const int32_t* const sar = bands[0] < 10 ? bands + 3 : bands;
        CHECK(ms[0] == 4 && ms[1] == 2 && ms[2] == 3);
        CHECK(sar[0] == 14 && sar[1] == 13 && sar[2] == 14);
    }
}

}  // namespace rsdnet::test
