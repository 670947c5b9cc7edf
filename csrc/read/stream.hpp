// Batches of raw bands, read ahead by threads into a ring of slots that the consumer owns.
//
// A batch goes through: planned (which samples, which bands, where in a slot), filled (copied, by as many
// threads as are free), ready, taken by the consumer, released. Plans run ahead of slots, so that a disk can
// be asked for what comes next. Nothing is allocated once the stream runs.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "read/table.hpp"
#include "sampling/draws.hpp"
#include "sampling/order.hpp"

namespace rsdnet {

enum class Hints { kAuto, kOn, kOff };

// Memory of one batch, for up to `batch` samples of V views of C bands.
struct Slot {
    uint8_t* data;  // the bands
    uint64_t capacity;
    int64_t* records;    // (batch, V, C, kRecordFields)
    int64_t* samples;    // (batch,) numbers for the draws
    int64_t* positions;  // (batch,) positions in the table
};

struct StreamSpec {
    uint64_t seed;
    uint32_t views, channels;
    std::vector<int32_t> bands;    // read of every sample (one view of them all); empty: bands are drawn
    std::vector<uint64_t> quotas;  // per database
    Partition partition;
    uint64_t first, last, stride;  // steps first, first + stride, ... below last
    int threads;
    size_t ahead;  // batches planned before a slot is free
    Hints hints;
    bool stand_in;                     // another sample of its batch stands in for one that cannot be read
    std::vector<uint32_t> partners{};  // as draw_partner takes them; empty: all views are of one sample
    std::vector<int32_t> ms_view{}, sar_view{};  // as in BandDraw
};

struct Ready {
    size_t slot, count;
    uint64_t bytes;  // used of the slot's data
    uint32_t epoch;
    uint64_t step;
};

struct StreamStats {
    uint64_t samples = 0, bytes = 0, left_out = 0, hinted = 0;
    double seconds = 0, waited = 0, idle = 0;
    size_t ready = 0, planned = 0;
    int threads = 0;
    bool hints = false;
};

class Stream {
  public:
    // `table` must outlive the stream. Error for a specification that cannot work.
    Stream(const Table& table, StreamSpec spec, std::vector<Slot> slots);
    ~Stream();
    Stream(const Stream&) = delete;
    Stream& operator=(const Stream&) = delete;

    // True in a process that was forked from the one that made the threads: it must neither use nor destroy
    // it.
    bool is_forked() const;
    uint64_t steps_per_epoch() const { return steps_per_epoch_; }

    enum class Next { kBatch, kEnd, kNotYet };
    // The next batch in order, waiting for it at most so long. Error if it cannot be read: then the stream is
    // closed.
    Next next(std::chrono::milliseconds patience, Ready* ready);
    // The slot may be filled again. Error if the consumer does not hold it.
    void release(size_t slot);
    // Ends the threads. A consumer that waits gets kEnd.
    void close();
    StreamStats stats() const;

  private:
    enum class State { kEmpty, kPlanning, kPlanned, kFilling, kReady };
    struct Plan {
        State state = State::kEmpty;
        uint64_t step = 0, bytes = 0;
        uint32_t epoch = 0;
        size_t count = 0, slot = 0;
        size_t taken = 0, filled = 0;  // samples handed to threads, and done
        size_t lost = 0;               // samples that could not be read
        std::exception_ptr error;
        std::vector<Due> due;
        std::vector<uint32_t> numbers;
        std::vector<uint32_t> shown;  // samples whose bands are read: parts() of each that is due
        std::vector<int32_t> bands;
        std::vector<int64_t> records;
        std::vector<uint8_t> failed;  // by sample
    };
    struct Worker {
        Scratch scratch;
        BandDraw draw;
        std::vector<uint32_t> picked;
    };
    using Lock = std::unique_lock<std::mutex>;
    using Clock = std::chrono::steady_clock;

    void check_spec() const;
    void serve();
    bool work(Lock& lock, Worker& worker);
    void make_plan(Lock& lock, Worker& worker, Plan& plan, uint64_t ordinal);
    void draw(Plan& plan, Worker& worker) const;
    size_t hint(const Plan& plan, Worker& worker) const;
    bool is_cold(const Plan& plan, Worker& worker) const;
    void fill(Lock& lock, Worker& worker, Plan& plan);
    void copy(Plan& plan, size_t begin, size_t end, Worker& worker, size_t& lost,
              std::exception_ptr& error) const;
    void finish(Plan& plan) const;
    Plan& plan_of(uint64_t ordinal) { return plans_[ordinal % plans_.size()]; }
    size_t bands_per_sample() const { return size_t{spec_.views} * spec_.channels; }
    size_t parts() const { return spec_.partners.empty() ? 1 : spec_.views; }
    size_t bands_per_part() const { return bands_per_sample() / parts(); }

    const Table& table_;
    StreamSpec spec_;
    Order order_;
    uint64_t number_stride_, steps_per_epoch_, batches_;
    size_t chunk_;  // samples that a thread takes at once
    Stores stores_;
    long process_;

    mutable std::mutex mutex_;
    std::mutex closing_;  // one thread at a time joins the threads
    std::condition_variable wake_, ready_;
    std::vector<Slot> slots_;
    std::vector<size_t> free_;                               // slots
    std::vector<uint8_t> held_;                              // slots that the consumer has
    std::vector<Plan> plans_;                                // a ring by ordinal
    uint64_t next_plan_ = 0, next_fill_ = 0, next_out_ = 0;  // ordinals of batches
    bool stop_ = false;
    StreamStats stats_;
    Clock::time_point began_;
    std::vector<std::thread> threads_;
};

}  // namespace rsdnet
