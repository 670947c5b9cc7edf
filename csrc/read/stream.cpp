#include "read/stream.hpp"

#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <system_error>
#include <utility>

#include "error.hpp"

namespace rsdnet {
namespace {

constexpr uint64_t kCacheBytes =
    4 << 20;  // slots that together fit a core's share of the caches stay in them

// How many samples ahead the processor fetches a sample's row of the table.
constexpr size_t kDueAhead = 8;

using Seconds = std::chrono::duration<double>;

uint64_t largest_row(const Table& table) {
    uint64_t largest = 0;
    for (uint32_t sample = 0; sample < table.size(); ++sample)
        largest = std::max<uint64_t>(largest, table.row(sample));
    return largest;
}

StreamSpec completed(const Table& table, StreamSpec spec) {
    if (spec.quotas.empty()) spec.quotas = table.counts();
    if (spec.quotas.size() != table.counts().size()) throw Error("a stream needs a quota per database");
    if (!spec.bands.empty()) spec.views = 1, spec.channels = static_cast<uint32_t>(spec.bands.size());
    if (spec.threads <= 0) spec.threads = usable_cores();
    return spec;
}

}  // namespace

Stream::Stream(const Table& table, StreamSpec spec, std::vector<Slot> slots)
    : table_(table),
      spec_(completed(table, std::move(spec))),
      order_(spec_.seed, table.counts(), spec_.quotas),
      number_stride_(largest_row(table) + 1),
      process_(getpid()),
      slots_(std::move(slots)),
      held_(slots_.size(), 0),
      plans_(slots_.size() + spec_.ahead + 1),
      began_(Clock::now()) {
    check_spec();
    steps_per_epoch_ = spec_.partition.steps(order_.length());
    batches_ = spec_.last > spec_.first ? (spec_.last - spec_.first + spec_.stride - 1) / spec_.stride : 0;
    const size_t batch = spec_.partition.batch, threads = static_cast<size_t>(spec_.threads);
    chunk_ = std::clamp<size_t>(batch / (4 * threads), 1, 64);
    uint64_t memory = 0;
    for (const Slot& slot : slots_) memory += slot.capacity;
    stores_ = memory > kCacheBytes ? Stores::kStreaming : Stores::kCached;
    for (size_t slot = slots_.size(); slot > 0; --slot) free_.push_back(slot - 1);
    for (Plan& plan : plans_) {
        plan.due.resize(batch), plan.numbers.resize(batch), plan.failed.resize(batch);
        plan.bands.resize(batch * bands_per_sample()), plan.shown.resize(batch * parts());
        plan.records.resize(batch * bands_per_sample() * kRecordFields);
    }
    const SignalsBlocked blocked;
    try {
        for (size_t i = 0; i < threads; ++i) threads_.emplace_back([this] { serve(); });
    } catch (const std::system_error&) {
        // A limit on threads: go on with those that started.
    }
    if (threads_.empty()) throw Error("no thread could be started to read with");
    stats_.threads = static_cast<int>(threads_.size());
}

Stream::~Stream() {
    close();
}

bool Stream::is_forked() const {
    return process_ != getpid();
}

void Stream::check_spec() const {
    const Partition& partition = spec_.partition;
    if (table_.size() == 0) throw Error("there are no samples to stream");
    if (partition.batch == 0 || partition.world == 0 || partition.rank >= partition.world ||
        spec_.stride == 0 || slots_.empty()) {
        throw Error("a stream needs a batch, a slot, a stride and a rank below the world's size");
    }
    for (const auto* view : {&spec_.ms_view, &spec_.sar_view}) {
        if (!view->empty() && view->size() != spec_.channels)
            throw Error("a view of fixed bands needs one for each channel");
    }
    for (size_t d = 0; d < spec_.quotas.size(); ++d) {
        if (spec_.quotas[d] != 0 && table_.counts()[d] == 0) {
            throw Error(table_.reader().paths()[d] +
                        ": has a share of the samples, but none that can be read");
        }
    }
    const auto& partners = spec_.partners;
    if (!partners.empty() && (partners.size() != table_.size() || !is_permutation(partners)))
        throw Error("partners must hold each of the " + std::to_string(table_.size()) + " samples once");
    constexpr uint64_t kMost = uint64_t{1} << 32;
    const bool too_many =
        std::any_of(spec_.quotas.begin(), spec_.quotas.end(), [](uint64_t n) { return n > kMost; });
    if (too_many || order_.length() > kMost) throw Error("more than 2^32 samples in an epoch");
    if (order_.length() == 0) throw Error("no database has a share of the samples");
    if (partition.steps(order_.length()) == 0) {
        throw Error("a batch of " + std::to_string(partition.batch) + " on each of " +
                    std::to_string(partition.world) + " ranks is more than the " +
                    std::to_string(order_.length()) + " samples of an epoch; make it smaller");
    }
    if (number_stride_ * order_.most_repeats() > UINT32_MAX) {
        throw Error(
            "a sample would come so often that its draws run out of numbers; make the weights less unlike");
    }
    if (spec_.last / partition.steps(order_.length()) > UINT32_MAX - 1) throw Error("more than 2^32 epochs");
}

Stream::Next Stream::next(std::chrono::milliseconds patience, Ready* ready) {
    if (is_forked()) throw Error("this stream was made in another process; make one in each");
    Lock lock(mutex_);
    const auto began = Clock::now();
    const bool there = ready_.wait_for(lock, patience, [&] {
        return stop_ || next_out_ == batches_ || plan_of(next_out_).state == State::kReady;
    });
    stats_.waited += Seconds(Clock::now() - began).count();
    if (!there) return Next::kNotYet;
    if (stop_ || next_out_ == batches_) return Next::kEnd;
    Plan& plan = plan_of(next_out_);
    if (plan.error) {
        const std::exception_ptr error = plan.error;
        stop_ = true;
        wake_.notify_all();
        std::rethrow_exception(error);
    }
    *ready = {plan.slot, plan.count, plan.bytes, plan.epoch, plan.step};
    held_[plan.slot] = 1;
    plan.state = State::kEmpty;
    ++next_out_;
    stats_.samples += plan.count;
    stats_.bytes += plan.bytes;
    stats_.left_out += plan.lost;
    wake_.notify_all();  // there is room for a plan
    return Next::kBatch;
}

void Stream::release(size_t slot) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (slot >= slots_.size() || !held_[slot]) {
        throw Error("slot " + std::to_string(slot) + " is not in the consumer's hands");
    }
    held_[slot] = 0;
    free_.push_back(slot);
    wake_.notify_all();
}

void Stream::close() {
    if (is_forked()) return;
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        stop_ = true;
    }
    wake_.notify_all();
    ready_.notify_all();
    const std::lock_guard<std::mutex> closing(closing_);
    for (auto& thread : threads_) {
        if (thread.joinable()) thread.join();
    }
}

StreamStats Stream::stats() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    StreamStats stats = stats_;
    stats.seconds = Seconds(Clock::now() - began_).count();
    stats.planned = next_plan_ - next_fill_;
    for (uint64_t next = next_out_; next < next_fill_; ++next, ++stats.ready) {
        if (plans_[next % plans_.size()].state != State::kReady) break;
    }
    return stats;
}

void Stream::serve() {
    Worker worker;
    worker.draw = {spec_.seed,         0,
                   spec_.views,        spec_.channels,
                   table_.pool(false), table_.pool(true),
                   table_.modality(),  spec_.ms_view,
                   spec_.sar_view};
    worker.picked.reserve(std::max(table_.pool(false).size(), table_.pool(true).size()));
    Lock lock(mutex_);
    while (!stop_) {
        if (work(lock, worker)) continue;
        const auto began = Clock::now();
        wake_.wait(lock);
        stats_.idle += Seconds(Clock::now() - began).count();
    }
}

// Does one piece of work, if there is any: plans run ahead, then the oldest batch is filled first.
bool Stream::work(Lock& lock, Worker& worker) {
    if (next_plan_ < batches_ && next_plan_ <= next_fill_ + spec_.ahead &&
        next_plan_ < next_out_ + plans_.size() && plan_of(next_plan_).state == State::kEmpty) {
        const uint64_t ordinal = next_plan_++;
        make_plan(lock, worker, plan_of(ordinal), ordinal);
        return true;
    }
    for (uint64_t ordinal = next_out_; ordinal < next_fill_; ++ordinal) {
        Plan& plan = plan_of(ordinal);
        if (plan.state == State::kFilling && plan.taken < plan.count) {
            fill(lock, worker, plan);
            return true;
        }
    }
    if (next_fill_ < next_plan_ && plan_of(next_fill_).state == State::kPlanned && !free_.empty()) {
        Plan& plan = plan_of(next_fill_++);
        plan.slot = free_.back();
        free_.pop_back();
        plan.state = State::kFilling;
        wake_.notify_all();  // the others fill it too
        fill(lock, worker, plan);
        return true;
    }
    return false;
}

void Stream::make_plan(Lock& lock, Worker& worker, Plan& plan, uint64_t ordinal) {
    plan.state = State::kPlanning;
    plan.step = spec_.first + ordinal * spec_.stride;
    plan.epoch = static_cast<uint32_t>(plan.step / steps_per_epoch_);
    plan.taken = plan.filled = plan.lost = plan.count = 0;
    plan.error = nullptr;
    lock.unlock();
    size_t asked = 0;
    bool hinted = false;
    try {
        draw(plan, worker);
        hinted = spec_.hints == Hints::kOn || (spec_.hints == Hints::kAuto && is_cold(plan, worker));
        if (hinted) asked = hint(plan, worker);
    } catch (...) {
        plan.error = std::current_exception();
        plan.count = 0;
    }
    lock.lock();
    stats_.hints = hinted;
    stats_.hinted += asked;
    plan.state = State::kPlanned;
    wake_.notify_all();
}

void Stream::draw(Plan& plan, Worker& worker) const {
    const Partition::Range range = spec_.partition.range(order_.length(), plan.step % steps_per_epoch_);
    order_.at(plan.epoch, range.first, range.count, plan.due.data());
    for (size_t i = 0; i < range.count; ++i) {
        if (i + kDueAhead < range.count) table_.prefetch(plan.due[i + kDueAhead].sample);
        const Due& due = plan.due[i];
        plan.numbers[i] = static_cast<uint32_t>(table_.row(due.sample) + due.repeat * number_stride_);
        for (uint32_t view = 0; view < parts(); ++view) {
            plan.shown[i * parts() + view] =
                spec_.partners.empty()
                    ? due.sample
                    : draw_partner(spec_.partners, spec_.seed, plan.epoch, plan.numbers[i], due.sample, view);
        }
    }
    const size_t bands = bands_per_sample();
    if (spec_.bands.empty()) {
        worker.draw.epoch = plan.epoch;
        draw_bands(worker.draw, plan.numbers.data(), range.count, plan.bands.data(), worker.picked);
    } else {
        for (size_t i = 0; i < range.count; ++i)
            std::copy(spec_.bands.begin(), spec_.bands.end(),
                      plan.bands.begin() + static_cast<ptrdiff_t>(i * bands));
    }
    plan.bytes = 0;
    const size_t each = bands_per_part();
    for (size_t part = 0; part < range.count * parts(); ++part) {
        table_.describe(plan.shown[part], &plan.bands[part * each], each, plan.bytes,
                        &plan.records[part * each * kRecordFields], worker.scratch);
    }
    plan.count = range.count;
}

// Looks at a few samples of a batch, since asking for what is in memory already costs as much as copying it.
bool Stream::is_cold(const Plan& plan, Worker& worker) const {
    constexpr size_t kLooks = 8;
    for (size_t i = 0; i < std::min(kLooks, plan.count); ++i) {
        const size_t at = i * plan.count / kLooks;
        if (!table_.is_cached(plan.due[at].sample, plan.bands[at * bands_per_sample()], worker.scratch))
            return true;
    }
    return false;
}

size_t Stream::hint(const Plan& plan, Worker& worker) const {
    size_t asked = 0;
    const size_t each = bands_per_part();
    for (size_t part = 0; part < plan.count * parts(); ++part)
        asked += table_.ask_ahead(plan.shown[part], &plan.bands[part * each], each, worker.scratch);
    return asked;
}

// Takes the next samples of a batch and copies them; who copies the last ones finishes the batch.
void Stream::fill(Lock& lock, Worker& worker, Plan& plan) {
    const size_t begin = plan.taken, end = std::min(plan.count, begin + chunk_);
    plan.taken = end;
    size_t lost = 0;
    std::exception_ptr error;
    lock.unlock();
    copy(plan, begin, end, worker, lost, error);
    lock.lock();
    plan.lost += lost;
    if (error && (!plan.error)) plan.error = error;
    plan.filled += end - begin;
    if (plan.filled < plan.count) return;
    lock.unlock();
    finish(plan);
    lock.lock();
    plan.state = State::kReady;
    ready_.notify_all();
}

void Stream::copy(Plan& plan, size_t begin, size_t end, Worker& worker, size_t& lost,
                  std::exception_ptr& error) const {
    const Slot& slot = slots_[plan.slot];
    const size_t each = bands_per_part();
    for (size_t i = begin; i < end; ++i) {
        plan.failed[i] = 0;
        try {
            if (!table_.is_elsewhere() && plan.bytes > slot.capacity) {
                throw FileError("a slot has " + std::to_string(slot.capacity) + " bytes, a batch " +
                                std::to_string(plan.bytes));
            }
            for (size_t part = i * parts(); part < (i + 1) * parts(); ++part) {
                table_.copy(plan.shown[part], &plan.records[part * each * kRecordFields], each, slot.data,
                            worker.scratch, stores_);
            }
        } catch (const FileError&) {
            error = std::current_exception();
            return;
        } catch (...) {
            plan.failed[i] = 1;
            ++lost;
            if (!spec_.stand_in) error = std::current_exception();
        }
    }
    fence_stores();
}

// The files must be as they were when the last byte has been copied. Then the lost get their stand-ins: the
// next sample of the batch that could be read.
void Stream::finish(Plan& plan) const {
    try {
        if (!plan.error) table_.check_unchanged();
    } catch (...) {
        plan.error = std::current_exception();
    }
    const size_t count = plan.count, bands = bands_per_sample();
    if (!plan.error && plan.lost > 0 && plan.lost == count) {
        plan.error = std::make_exception_ptr(
            Error("step " + std::to_string(plan.step) + ": none of its " + std::to_string(count) +
                  " samples can be read; run python -m rsdnet.info with --verify on the databases"));
    }
    if (plan.error) return;
    const Slot& slot = slots_[plan.slot];
    const size_t fields = bands * kRecordFields;
    for (size_t i = 0; i < count; ++i) {
        size_t from = i;
        while (plan.lost > 0 && plan.failed[from]) from = (from + 1) % count;
        std::memcpy(slot.records + i * fields, &plan.records[from * fields], fields * sizeof(int64_t));
        slot.samples[i] = plan.numbers[from];
        slot.positions[i] = plan.due[from].sample;
    }
}

}  // namespace rsdnet
