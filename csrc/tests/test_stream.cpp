// The stream: what it delivers, in which order, and that it ends well however it is treated.
#include "read/stream.hpp"

#include <algorithm>
#include <atomic>
#include <map>
#include <random>
#include <thread>

#include "tests/samples.hpp"

namespace rsdnet::test {
namespace {

using std::chrono::milliseconds;

// Slots in memory of their exact size, and a specification that reads two epochs of `samples`.
struct Ring {
    StreamSpec spec{};
    std::vector<std::vector<uint8_t>> data;
    std::vector<std::vector<int64_t>> records, samples, positions;

    Ring(const Table& table, size_t slots, uint64_t batch, uint32_t views = 2, uint32_t channels = 1) {
        spec = {99, views, channels, {}, {}, {batch, 0, 1, true}, 0, 0, 1, 2, 2, Hints::kAuto, false};
        const uint64_t bands = uint64_t{views} * channels;
        const uint64_t band = std::max(table.band_bytes(false), table.band_bytes(true));
        for (size_t slot = 0; slot < slots; ++slot) {
            data.emplace_back(batch * bands * band, 0xAB);
            records.emplace_back(batch * bands * kRecordFields);
            samples.emplace_back(batch), positions.emplace_back(batch);
        }
    }

    std::vector<Slot> slots() {
        std::vector<Slot> out;
        for (size_t i = 0; i < data.size(); ++i) {
            out.push_back(
                {data[i].data(), data[i].size(), records[i].data(), samples[i].data(), positions[i].data()});
        }
        return out;
    }

    // A batch with all that belongs to it, for comparisons.
    std::string copy(const Ready& ready) const {
        const size_t bands = size_t{spec.views} * spec.channels;
        std::string out(reinterpret_cast<const char*>(data[ready.slot].data()), ready.bytes);
        for (const auto* part : {&samples, &positions, &records}) {
            const size_t each = part == &records ? bands * kRecordFields : 1;
            out.append(reinterpret_cast<const char*>((*part)[ready.slot].data()),
                       ready.count * each * sizeof(int64_t));
        }
        return out + std::to_string(ready.epoch) + "/" + std::to_string(ready.step);
    }
};

bool take(Stream& stream, Ready* ready) {
    Stream::Next next;
    while ((next = stream.next(milliseconds(20), ready)) == Stream::Next::kNotYet) {
    }
    return next == Stream::Next::kBatch;
}

// That a batch shows the samples that are due, the bands that are drawn, and their pixels.
void check_batch(const Samples& samples, const Ring& ring, const Ready& ready) {
    const StreamSpec& spec = ring.spec;
    const Table& table = *samples.table;
    const Order order(spec.seed, table.counts(), spec.quotas.empty() ? table.counts() : spec.quotas);
    const uint64_t steps = spec.partition.steps(order.length());
    CHECK(ready.epoch == ready.step / steps);
    const Partition::Range range = spec.partition.range(order.length(), ready.step % steps);
    CHECK(ready.count == range.count && ready.bytes <= ring.data[ready.slot].size());
    std::vector<Due> due(range.count);
    order.at(ready.epoch, range.first, range.count, due.data());
    const size_t bands = size_t{spec.views} * spec.channels;
    std::vector<int32_t> expected(bands);
    std::vector<uint32_t> scratch;
    for (size_t i = 0; i < ready.count; ++i) {
        const uint32_t row = table.row(due[i].sample);
        const auto number = static_cast<uint32_t>(row + due[i].repeat * table.size());
        CHECK(ring.positions[ready.slot][i] == due[i].sample && ring.samples[ready.slot][i] == number);
        const BandDraw draw = {spec.seed,         ready.epoch,      spec.views,      spec.channels,
                               table.pool(false), table.pool(true), table.modality()};
        draw_bands(draw, &number, 1, expected.data(), scratch);
        if (!spec.bands.empty()) expected = spec.bands;
        for (size_t band = 0; band < bands; ++band) {
            const int64_t* const record = &ring.records[ready.slot][(i * bands + band) * kRecordFields];
            CHECK(record[4] == expected[band]);
            samples.check_band(record, ring.data[ready.slot].data(), row);
        }
    }
}

// Streams it all; gives the batches.
std::vector<std::string> stream_all(const Samples& samples, Ring& ring) {
    Stream stream(*samples.table, ring.spec, ring.slots());
    std::vector<std::string> batches;
    uint64_t step = ring.spec.first;
    Ready ready{};
    while (take(stream, &ready)) {
        CHECK(ready.step == step);
        step += ring.spec.stride;
        check_batch(samples, ring, ready);
        batches.push_back(ring.copy(ready));
        std::fill(ring.data[ready.slot].begin(), ring.data[ready.slot].end(), 0xAB);
        stream.release(ready.slot);
    }
    CHECK(step >= ring.spec.last && step < ring.spec.last + ring.spec.stride);
    CHECK(!take(stream, &ready));  // the end stays the end
    const StreamStats stats = stream.stats();
    CHECK(stats.ready == 0 && stats.planned == 0 && stats.left_out == 0);
    return batches;
}

}  // namespace

TEST(a_stream_is_the_same_whatever_its_threads_slots_and_look_ahead) {
    const Samples samples({9, 21, 1}, 6);
    std::vector<std::string> expected;
    for (const int threads : {1, 2, 3, 8}) {
        for (const size_t slots : {1, 2, 4}) {
            for (const size_t ahead : {0, 1, 4}) {
                Ring ring(*samples.table, slots, 4);
                ring.spec.threads = threads, ring.spec.ahead = ahead, ring.spec.last = 14;
                const std::vector<std::string> batches = stream_all(samples, ring);
                CHECK(batches.size() == 14);
                if (expected.empty()) expected = batches;
                CHECK(batches == expected);
            }
        }
    }
}

TEST(a_stream_reads_any_modality_with_and_without_hints) {
    for (const Modality modality : {Modality::kMsAndSar, Modality::kMs, Modality::kSar}) {
        const Samples samples({9, 8}, 20, modality);
        for (const Hints hints : {Hints::kAuto, Hints::kOn, Hints::kOff}) {
            Ring ring(*samples.table, 3, 5, 2, 2);
            ring.spec.hints = hints, ring.spec.last = 6;
            stream_all(samples, ring);
        }
    }
}

TEST(slots_larger_than_the_caches_are_filled_alike) {
    Samples samples({10, 9}, 60);
    std::vector<uint8_t> arena(samples.table->lay_out());
    samples.table->load(arena.data(), 0, 19);
    samples.table->keep(arena.data());
    Ring small(*samples.table, 2, 4), large(*samples.table, 2, 4);
    for (auto& data : large.data) data.resize(6 << 20);  // their sum decides how they are written
    small.spec.last = large.spec.last = 8;
    CHECK(stream_all(samples, small) == stream_all(samples, large));
}

TEST(a_stream_of_named_bands_reads_them_of_every_sample) {
    const Samples samples({11}, 6);
    Ring ring(*samples.table, 2, 3, 1, 3);
    ring.spec.bands = ids({"B8A", "VV", "B02"}), ring.spec.last = 6;
    ring.spec.views = 7, ring.spec.channels = 9;  // ignored
    Ring ours = ring;
    ours.spec.views = 1, ours.spec.channels = 3;
    CHECK(stream_all(samples, ours).size() == 6);
    Stream stream(*samples.table, ring.spec, ring.slots());
    Ready ready{};
    CHECK(take(stream, &ready) && ready.count == 3);
}

TEST(a_stream_takes_up_anywhere) {
    const Samples samples({30}, 4);
    Ring whole(*samples.table, 2, 4);
    whole.spec.last = 20;
    const std::vector<std::string> all = stream_all(samples, whole);
    for (const uint64_t first : {0, 6, 7, 19, 20}) {
        for (const uint64_t stride : {1, 3, 30}) {
            Ring ring(*samples.table, 2, 4);
            ring.spec.first = first, ring.spec.stride = stride, ring.spec.last = 20;
            const std::vector<std::string> part = stream_all(samples, ring);
            for (size_t i = 0; i < part.size(); ++i) CHECK(part[i] == all[first + i * stride]);
        }
    }
}

TEST(ranks_stream_what_one_alone_streams) {
    const Samples samples({13, 16}, 4);
    for (const bool drop_last : {true, false}) {
        std::map<uint64_t, std::vector<int64_t>> alone, together;
        for (const uint64_t world : {1, 4}) {
            for (uint64_t rank = 0; rank < world; ++rank) {
                Ring ring(*samples.table, 2, 8 / world);
                ring.spec.partition.rank = rank, ring.spec.partition.world = world,
                ring.spec.partition.drop_last = drop_last;
                ring.spec.last = drop_last ? 6 : 8;
                Stream stream(*samples.table, ring.spec, ring.slots());
                CHECK(stream.steps_per_epoch() == (drop_last ? 3 : 4));
                Ready ready{};
                uint64_t batches = 0;
                while (take(stream, &ready)) {
                    check_batch(samples, ring, ready);
                    auto& step = (world == 1 ? alone : together)[ready.step];
                    step.insert(step.end(), ring.samples[ready.slot].begin(),
                                ring.samples[ready.slot].begin() + static_cast<ptrdiff_t>(ready.count));
                    stream.release(ready.slot);
                    ++batches;
                }
                CHECK(batches == ring.spec.last);  // empty ones too
            }
        }
        CHECK(alone == together);
    }
}

TEST(quotas_weigh_the_databases) {
    const Samples samples({5, 20}, 4);
    Ring ring(*samples.table, 2, 5);
    ring.spec.quotas = {15, 10};
    ring.spec.last = 20;
    CHECK(stream_all(samples, ring).size() == 20);
}

TEST(a_consumer_may_hold_slots_and_release_them_in_any_order) {
    const Samples samples({40}, 6);
    std::mt19937_64 random(4);
    for (int round = 0; round < 20; ++round) {
        Ring ring(*samples.table, 4, 3);
        ring.spec.threads = 1 + round % 4, ring.spec.last = 60, ring.spec.ahead = round % 3;
        Stream stream(*samples.table, ring.spec, ring.slots());
        std::vector<std::pair<Ready, std::string>> held;
        Ready ready{};
        for (;;) {
            const bool more = held.size() < 4 && take(stream, &ready);
            if (more) held.push_back({ready, ring.copy(ready)});
            if (!more && held.empty()) break;
            if (more && random() % 3) continue;
            const size_t one = random() % held.size();
            check_batch(samples, ring, held[one].first);  // untouched while it was held
            CHECK(ring.copy(held[one].first) == held[one].second);
            stream.release(held[one].first.slot);
            held.erase(held.begin() + static_cast<ptrdiff_t>(one));
        }
    }
}

TEST(a_consumer_that_holds_all_slots_waits_in_vain_but_not_for_ever) {
    const Samples samples({12}, 4);
    Ring ring(*samples.table, 2, 2);
    ring.spec.last = 100;
    Stream stream(*samples.table, ring.spec, ring.slots());
    Ready one{}, two{}, three{};
    CHECK(take(stream, &one) && take(stream, &two) && one.slot != two.slot);
    CHECK(stream.next(milliseconds(50), &three) == Stream::Next::kNotYet);
    CHECK_ERROR(stream.release(2), "not in the consumer's hands");
    stream.release(two.slot);
    CHECK_ERROR(stream.release(two.slot), "not in the consumer's hands");
    CHECK(take(stream, &three) && three.slot == two.slot);
}

TEST(a_stream_closes_at_any_moment) {
    const Samples samples({40}, 16);
    for (int round = 0; round < 60; ++round) {
        Ring ring(*samples.table, 1 + round % 4, 8);
        ring.spec.threads = 1 + round % 5, ring.spec.last = 1000000;
        Stream stream(*samples.table, ring.spec, ring.slots());
        Ready ready{};
        for (int i = 0; i < round % 7; ++i) {
            CHECK(take(stream, &ready));
            if (i % 2 == 0 || round % 4 < 2) stream.release(ready.slot);
            if (round % 4 >= 2 && i + 1 >= 1 + round % 4) break;  // never hold them all
        }
        if (round % 3 == 0) continue;  // dropped
        stream.close();
        CHECK(stream.next(milliseconds(1000000), &ready) == Stream::Next::kEnd);
        stream.close();
    }
}

TEST(close_wakes_a_consumer_that_waits) {
    const Samples samples({12}, 4);
    for (int round = 0; round < 30; ++round) {
        Ring ring(*samples.table, 1, 2);
        ring.spec.last = 100;
        Stream stream(*samples.table, ring.spec, ring.slots());
        Ready ready{};
        CHECK(take(stream, &ready));
        std::thread consumer([&] {
            Ready other{};
            CHECK(stream.next(milliseconds(1000000), &other) == Stream::Next::kEnd);
        });
        std::thread closer([&] { stream.close(); });
        stream.close();
        closer.join();
        consumer.join();
    }
}

TEST(statistics_may_be_asked_from_other_threads) {
    const Samples samples({40}, 10);
    Ring ring(*samples.table, 3, 4);
    ring.spec.last = 200;
    Stream stream(*samples.table, ring.spec, ring.slots());
    std::atomic<bool> done{false};
    std::thread watcher([&] {
        while (!done) CHECK(stream.stats().ready <= 3);
    });
    Ready ready{};
    uint64_t bytes = 0, count = 0;
    while (take(stream, &ready)) bytes += ready.bytes, count += ready.count, stream.release(ready.slot);
    done = true;
    watcher.join();
    CHECK(stream.stats().samples == count && count == 800 && stream.stats().bytes == bytes);
}

TEST(two_streams_share_a_table) {
    const Samples samples({25}, 8);
    std::vector<std::thread> threads;
    for (int t = 0; t < 3; ++t) {
        threads.emplace_back([&, t] {
            Ring ring(*samples.table, 2, 5);
            ring.spec.seed = static_cast<uint64_t>(t), ring.spec.last = 20;
            stream_all(samples, ring);
        });
    }
    for (auto& thread : threads) thread.join();
}

TEST(a_stream_reads_from_a_cache) {
    Samples samples({9, 14}, 6);
    std::vector<uint8_t> arena(samples.table->lay_out());
    samples.table->load(arena.data(), 0, 23);
    samples.table->keep(arena.data());
    for (const auto& file : samples.files) file->truncate(0);
    Ring ring(*samples.table, 2, 4);
    ring.spec.last = 10;
    stream_all(samples, ring);
}

namespace {

// Streams with every file but one byte of a header sound; gives the Error or "".
struct Damaged {
    Samples samples{{12}, 20, Modality::kMs};

    explicit Damaged(const std::vector<const char*>& keys) {
        for (const char* key : keys) {
            Value value{};
            CHECK(samples.reader->database(0).find(key, &value));
            samples.files[0]->write(value.offset + 12, "X");
        }
    }
};

}  // namespace

TEST(a_damaged_entry_reaches_the_consumer_with_its_key) {
    for (const int threads : {1, 4}) {
        const Damaged damaged({"s2_007"});
        Ring ring(*damaged.samples.table, 3, 3);
        ring.spec.threads = threads, ring.spec.last = 40;
        Stream stream(*damaged.samples.table, ring.spec, ring.slots());
        Ready ready{};
        uint64_t batches = 0;
        const std::string message = error_of([&] {
            while (take(stream, &ready)) {
                check_batch(damaged.samples, ring, ready);
                stream.release(ready.slot);
                ++batches;
            }
        });
        CHECK(message.find("entry 's2_007': its header is not the one") != std::string::npos);
        CHECK(batches < 4);            // it comes in the first epoch
        CHECK(!take(stream, &ready));  // and then the stream is closed
    }
}

TEST(a_stand_in_replaces_a_damaged_entry_and_is_counted) {
    for (const int threads : {1, 4}) {
        const Damaged damaged({"s2_007", "s2_003"});
        Ring ring(*damaged.samples.table, 2, 4);
        ring.spec.threads = threads, ring.spec.last = 9, ring.spec.stand_in = true;
        Stream stream(*damaged.samples.table, ring.spec, ring.slots());
        Ready ready{};
        uint64_t count = 0;
        while (take(stream, &ready)) {
            for (size_t i = 0; i < ready.count; ++i, ++count) {
                const int64_t row = ring.samples[ready.slot][i];
                CHECK(row != 7 && row != 3 && ring.positions[ready.slot][i] == row);
                for (size_t view = 0; view < 2; ++view) {
                    damaged.samples.check_band(&ring.records[ready.slot][(2 * i + view) * kRecordFields],
                                               ring.data[ready.slot].data(), static_cast<uint64_t>(row));
                }
            }
            stream.release(ready.slot);
        }
        CHECK(count == 36 && stream.stats().left_out == 6);
    }
}

TEST(a_batch_without_a_sound_entry_is_an_error) {
    const Damaged damaged({"s2_000", "s2_001", "s2_002", "s2_003", "s2_004", "s2_005", "s2_006", "s2_007",
                           "s2_008", "s2_009", "s2_010", "s2_011"});
    Ring ring(*damaged.samples.table, 2, 4);
    ring.spec.last = 3, ring.spec.stand_in = true;
    Stream stream(*damaged.samples.table, ring.spec, ring.slots());
    Ready ready{};
    CHECK_ERROR(take(stream, &ready), "none of its 4 samples can be read");
}

TEST(a_file_cut_while_it_streams_is_an_error_not_a_signal) {
    for (int round = 0; round < 12; ++round) {
        const Samples samples({30}, 40);
        Ring ring(*samples.table, 3, 6);
        ring.spec.threads = 1 + round % 4, ring.spec.last = 1000000, ring.spec.stand_in = round % 3 == 0;
        ring.spec.hints = round % 5 ? Hints::kOff : Hints::kOn;
        Stream stream(*samples.table, ring.spec, ring.slots());
        Ready ready{};
        std::thread cutter([&] {
            std::this_thread::sleep_for(milliseconds(round % 6));
            samples.files[0]->truncate(static_cast<uint64_t>(round) * 3000);
        });
        const std::string message = error_of([&] {
            while (take(stream, &ready)) {
                check_batch(samples, ring, ready);  // what is delivered is right
                stream.release(ready.slot);
            }
        });
        cutter.join();
        CHECK(message.find("was truncated while it was open") != std::string::npos);
    }
}

TEST(a_file_deleted_while_it_streams_is_an_error) {
    const Samples samples({30}, 8);
    Ring ring(*samples.table, 2, 6);
    ring.spec.last = 1000000;
    Stream stream(*samples.table, ring.spec, ring.slots());
    Ready ready{};
    CHECK(take(stream, &ready));
    stream.release(ready.slot);
    samples.files[0]->remove();
    CHECK_ERROR(while (take(stream, &ready)) stream.release(ready.slot), "was deleted or replaced");
}

TEST(specifications_that_cannot_work_are_refused) {
    const Samples samples({10, 4}, 4);
    const auto refusal = [&](auto&& change) {
        Ring ring(*samples.table, 1, 4);
        ring.spec.last = 4;
        change(ring.spec);
        return error_of([&] { Stream(*samples.table, ring.spec, ring.slots()); });
    };
    CHECK(refusal([](StreamSpec&) {}).empty());
    CHECK(refusal([](StreamSpec& spec) { spec.partition.world = 4; }).find("more than the 14 samples") !=
          std::string::npos);
    CHECK(!refusal([](StreamSpec& spec) { spec.partition.rank = 1; }).empty());
    CHECK(!refusal([](StreamSpec& spec) { spec.stride = 0; }).empty());
    CHECK(!refusal([](StreamSpec& spec) { spec.quotas = {14}; }).empty());
    CHECK(!refusal([](StreamSpec& spec) { spec.quotas = {0, 0}; }).empty());
    CHECK(!refusal([](StreamSpec& spec) { spec.quotas = {uint64_t{1} << 40, 4}; }).empty());
    CHECK(!refusal([](StreamSpec& spec) { spec.last = UINT64_MAX; }).empty());
    Ring ring(*samples.table, 0, 4);
    CHECK(!error_of([&] { Stream(*samples.table, ring.spec, ring.slots()); }).empty());
}

TEST(a_slot_too_small_is_an_error_not_an_overrun) {
    const Samples samples({10}, 8);
    Ring ring(*samples.table, 2, 4);
    ring.spec.last = 4;
    for (auto& data : ring.data) data.resize(100), data.shrink_to_fit();
    Stream stream(*samples.table, ring.spec, ring.slots());
    Ready ready{};
    CHECK_ERROR(take(stream, &ready), "a slot has 100 bytes");
}

}  // namespace rsdnet::test
