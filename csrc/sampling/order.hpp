// In which order samples are read: which sample stands at a position of an epoch, and which positions a rank
// reads at a step. Pure functions; nothing is stored but a few numbers a database.
#pragma once

#include <cstdint>
#include <vector>

namespace rsdnet {

// A sample that is due.
struct Due {
    uint32_t sample;  // its position in the table
    uint32_t repeat;  // how often it came before in this epoch
};

// An epoch holds quotas[d] samples of database d, in one random order over all databases. Where a quota is
// the database's count, an epoch visits each of its samples once. Where it is not, the database's samples are
// dealt out in rounds that go on from epoch to epoch, each round in a random order of its own: so all are
// visited equally often.
class Order {
  public:
    // counts, quotas: per database; counts of databases with a quota must not be 0.
    Order(uint64_t seed, std::vector<uint64_t> counts, std::vector<uint64_t> quotas);

    uint64_t length() const { return length_; }  // positions in an epoch
    uint32_t most_repeats() const;               // Due::repeat stays below it

    // The samples at positions [first, first + count) of an epoch.
    void at(uint32_t epoch, uint64_t first, uint64_t count, Due* out) const;

  private:
    uint64_t seed_, length_ = 0;
    std::vector<uint64_t> counts_, quotas_;
    std::vector<uint64_t> first_sample_, first_position_;  // of each database
};

// A rank's part of every step. The global batch, world * batch positions, does not depend on the number of
// ranks.
struct Partition {
    uint64_t batch;  // samples of a rank in a step
    uint64_t rank, world;
    bool drop_last;  // whether an epoch ends before a step that lacks samples

    uint64_t steps(uint64_t length) const;  // in an epoch of so many positions

    struct Range {
        uint64_t first, count;
    };
    Range range(uint64_t length, uint64_t step) const;  // positions of a step of an epoch
};

}  // namespace rsdnet
