// The reader: its cache of layouts, and gather against the pixels that databases.cpp wrote.
#include <atomic>
#include <chrono>
#include <cstring>
#include <random>
#include <thread>

#include "read/reader.hpp"
#include "tests/check.hpp"
#include "tests/databases.hpp"

namespace rsdnet::test {
namespace {

constexpr Access kWays[] = {Access::kMap, Access::kPread};
constexpr uint64_t kPatches = 20, kSide = 12;

// What gather fills, in memory of its exact size.
struct Batch {
    std::vector<int64_t> entries, bands, records;
    std::vector<uint8_t> data;

    void add(int64_t entry, const char* band) { entries.push_back(entry), bands.push_back(band_id(band)); }
    void gather(Reader& reader) {
        records.resize(entries.size() * kRecordFields);
        data = std::vector<uint8_t>();
        const uint64_t needed =
            reader.gather(entries.data(), bands.data(), entries.size(), nullptr, 0, records.data());
        data = std::vector<uint8_t>(needed, 0xAB);
        CHECK(reader.gather(entries.data(), bands.data(), entries.size(), data.data(), needed,
                            records.data()) == needed);
    }
};

std::vector<int64_t> handles_of(Reader& reader, const std::vector<std::string>& keys) {
    std::vector<Entry> found(keys.size());
    for (size_t i = 0; i < keys.size(); ++i) CHECK(reader.find(keys[i], -1, &found[i]));
    std::vector<int64_t> handles(keys.size());
    reader.register_entries(found, handles.data());
    return handles;
}

// Record i describes band `band` of patch `patch`, and the bytes are its pixels.
template <typename T>
void check_band(const Batch& batch, size_t i, uint64_t patch, uint64_t side, int64_t dtype) {
    const int64_t* const record = batch.records.data() + kRecordFields * i;
    const auto extent = static_cast<int64_t>(side);
    CHECK(record[0] % 16 == 0 && record[1] == dtype && record[2] == extent && record[3] == extent);
    CHECK(record[4] == batch.bands[i]);
    for (uint64_t p = 0; p < side * side; ++p) {
        T value;
        std::memcpy(&value, batch.data.data() + record[0] + p * sizeof(T), sizeof(T));
        CHECK(value == static_cast<T>(pixel(patch, static_cast<uint64_t>(batch.bands[i]), p)));
    }
}

// A batch of random bands of random patches, gathered and checked.
void gather_at_random(Reader& reader, const std::vector<int64_t>& ms, const std::vector<int64_t>& sar,
                      uint64_t seed) {
    std::mt19937_64 random(seed);
    Batch batch;
    std::vector<uint64_t> patches;
    for (size_t i = random() % 200; i > 0; --i) {
        static const char* const names[] = {"B02", "B03", "B05", "B8A", "VV", "VH"};
        const char* const name = names[random() % 6];
        patches.push_back(random() % ms.size());
        batch.add((name[0] == 'V' ? sar : ms)[patches.back()], name);
    }
    batch.gather(reader);
    for (size_t i = 0; i < patches.size(); ++i) {
        const int64_t band = batch.bands[i];
        if (band == band_id("VV") || band == band_id("VH")) {
            check_band<float>(batch, i, patches[i], kSide, 4);
        } else {
            const bool half = band == band_id("B05") || band == band_id("B8A");
            check_band<uint16_t>(batch, i, patches[i], half ? kSide / 2 : kSide, 2);
        }
    }
}

std::vector<std::string> keys_of(const char* sensor) {
    std::vector<std::string> keys;
    for (uint64_t patch = 0; patch < kPatches; ++patch) keys.push_back(key_of(sensor, patch));
    return keys;
}

}  // namespace

TEST(gather_copies_the_pixels_that_were_written) {
    const TemporaryFile file(database_of(pairs(kPatches, kSide), {4096, 1, 5, 3}));
    for (const Access way : kWays) {
        for (const int threads : {1, 2, 7}) {
            Reader reader({file.path()}, spellings(), threads, way);
            const auto ms = handles_of(reader, keys_of("s2")), sar = handles_of(reader, keys_of("s1"));
            for (uint64_t seed = 0; seed < 20; ++seed) gather_at_random(reader, ms, sar, seed);
        }
    }
}

TEST(many_threads_take_turns_with_one_reader) {
    const TemporaryFile file(database_of(pairs(kPatches, kSide)));
    Reader reader({file.path()}, spellings(), 3);
    std::vector<std::thread> threads;
    for (uint64_t t = 0; t < 6; ++t) {
        threads.emplace_back([&, t] {
            for (uint64_t seed = 0; seed < 10; ++seed) {
                Entry entry{};
                CHECK(reader.find(key_of("s1", (t + seed) % kPatches), -1, &entry));  // needs no lock
                const std::lock_guard<std::mutex> lock(reader.mutex());
                const auto ms = handles_of(reader, keys_of("s2")), sar = handles_of(reader, keys_of("s1"));
                gather_at_random(reader, ms, sar, 100 * t + seed);
            }
        });
    }
    for (auto& thread : threads) thread.join();
    CHECK(reader.entries().size() == 2 * kPatches);
}

TEST(readers_of_many_threads_share_nothing) {
    const TemporaryFile file(database_of(pairs(kPatches, kSide)));
    std::vector<std::thread> threads;
    for (uint64_t t = 0; t < 4; ++t) {
        threads.emplace_back([&, t] {
            for (uint64_t round = 0; round < 5; ++round) {
                Reader reader({file.path()}, spellings(), 2, kWays[round % 2]);
                const auto ms = handles_of(reader, keys_of("s2")), sar = handles_of(reader, keys_of("s1"));
                gather_at_random(reader, ms, sar, 10 * t + round);
            }
        });
    }
    for (auto& thread : threads) thread.join();
}

TEST(a_band_that_cannot_be_read_is_named_with_its_key) {
    Entries entries = pairs(3, 4);
    entries["bad"] = std::string(50, 'x');
    entries["cut"] = ms_patch(0, 4).substr(0, 300);
    entries["wide"] = value_of({{"B02", "I32", {1, 1}, "abcd"}});
    const TemporaryFile file(database_of(entries));
    Reader reader({file.path()}, spellings(), 4);
    const auto handles = handles_of(reader, {"bad", "cut", "wide", "s1_001", "s2_001"});
    const char* const reasons[] = {"entry 'bad': its header claims",
                                   "entry 'cut': ", "entry 'wide': band B02 is int32",
                                   "entry 's1_001': it has no band B02 (it has VH, VV)"};
    Batch batch;
    for (int i = 0; i < 600; ++i) batch.add(handles[4], "B02");
    batch.gather(reader);
    for (size_t i = 0; i < 4; ++i) {
        Batch with = batch;
        with.entries[300 + i] = handles[i];
        CHECK_ERROR(with.gather(reader), reasons[i]);
        const auto found = reader.check(with.entries.data(), with.bands.data(), with.entries.size());
        CHECK(found.size() == 1 && found[0].first == 300 + i &&
              found[0].second.find(reasons[i]) != std::string::npos);
    }
    batch.entries[5] = 99;
    CHECK_ERROR(batch.gather(reader), "entry 99 is not registered");
    batch.entries[5] = handles[4], batch.bands[5] = 15;
    CHECK_ERROR(batch.gather(reader), "band id 15 is out of range");
}

TEST(a_key_in_two_databases_is_an_error) {
    const TemporaryFile one(database_of(pairs(2, 2))), two(database_of(pairs(3, 2)));
    Reader reader({one.path(), two.path()}, spellings(), 1);
    Entry entry{};
    CHECK_ERROR(reader.find("s1_001", -1, &entry), "is also in " + one.path());
    CHECK(reader.find("s1_001", 1, &entry) && entry.database == 1);
    CHECK(reader.find("s1_002", -1, &entry) && entry.database == 1);
    CHECK(reader.size() == 10);
}

TEST(a_file_that_goes_under_gather_is_an_error) {
    for (const Access way : kWays) {
        const TemporaryFile file(database_of(pairs(kPatches, 40)));
        Reader reader({file.path()}, spellings(), 3, way);
        const auto handles = handles_of(reader, keys_of("s2"));
        Batch batch;
        for (const int64_t handle : handles) batch.add(handle, "B02"), batch.add(handle, "B08");
        batch.gather(reader);
        file.truncate(20000);
        CHECK_ERROR(batch.gather(reader), "was truncated while it was open");
        CHECK_ERROR(reader.check_files(), "was truncated while it was open");
    }
    const TemporaryFile file(database_of(pairs(kPatches, 40)));
    Reader reader({file.path()}, spellings(), 1);
    Batch batch;
    batch.add(handles_of(reader, {"s2_003"})[0], "B02");
    file.remove();
    CHECK_ERROR(batch.gather(reader), "was deleted or replaced while it was open");
}

TEST(a_file_cut_during_gather_is_an_error_not_a_signal) {
    const std::string content = database_of(pairs(kPatches, 60));
    for (int round = 0; round < 20; ++round) {
        const TemporaryFile file(content);
        Reader reader({file.path()}, spellings(), 3);
        const auto handles = handles_of(reader, keys_of("s2"));
        Batch batch;
        for (int i = 0; i < 20; ++i) {
            for (const int64_t handle : handles) batch.add(handle, "B03");
        }
        batch.gather(reader);
        std::thread cutter([&] {
            std::this_thread::sleep_for(std::chrono::microseconds(round * 50));
            file.truncate(content.size() / 3);
        });
        std::string message;
        while (message.empty()) message = error_of([&] { batch.gather(reader); });
        cutter.join();
        CHECK(message.find(file.path()) == 0 && message.find("truncated") != std::string::npos);
    }
}

TEST(a_cache_of_layouts_is_shared_by_threads) {
    LayoutCache cache;
    constexpr size_t kLayouts = 1500;  // more than it keeps
    std::vector<std::string> prefixes;
    for (size_t i = 0; i < kLayouts; ++i) {
        prefixes.push_back(value_of({{"B02", "U8", {1, i}, std::string(i, 'x')}}));
        prefixes.back().resize(prefixes.back().size() - i);
    }
    std::vector<std::thread> threads;
    std::atomic<size_t> kept{0};
    for (size_t t = 0; t < 4; ++t) {
        threads.emplace_back([&, t] {
            for (size_t i = 0; i < kLayouts; ++i) {
                const std::string& prefix = prefixes[(i * 7 + t * 300) % kLayouts];
                const uint64_t payload = (i * 7 + t * 300) % kLayouts;
                const Layout* found = cache.find(prefix);
                auto parsed = std::make_unique<Layout>(parse_layout(prefix, payload, spellings()));
                const Layout* const added = found ? found : cache.add(parsed);
                if (added) {
                    CHECK(added->prefix == prefix && added->payload == payload &&
                          cache.find(prefix) == added);
                    ++kept;
                }
            }
        });
    }
    for (auto& thread : threads) thread.join();
    size_t there = 0;
    for (const std::string& prefix : prefixes) there += cache.find(prefix) != nullptr;
    CHECK(there == 1024 && kept >= there);
}

TEST(values_of_more_layouts_than_the_cache_keeps_are_read) {
    Entries entries;
    std::vector<std::string> keys;
    for (size_t i = 1; i <= 1100; ++i) {
        keys.push_back("k" + std::to_string(i));
        entries[keys.back()] = value_of({{"B02", "U8", {1, i}, std::string(i, static_cast<char>(i))}});
    }
    const TemporaryFile file(database_of(entries));
    for (const Access way : kWays) {
        Reader reader({file.path()}, spellings(), 3, way);
        Batch batch;
        for (const int64_t handle : handles_of(reader, keys)) batch.add(handle, "B02");
        for (int round = 0; round < 2; ++round) {
            batch.gather(reader);
            for (size_t i = 0; i < keys.size(); ++i) {
                const int64_t* const record = batch.records.data() + kRecordFields * i;
                CHECK(record[3] == static_cast<int64_t>(i + 1));
                CHECK(batch.data[static_cast<size_t>(record[0] + record[3] - 1)] ==
                      static_cast<uint8_t>(i + 1));
            }
        }
    }
}

}  // namespace rsdnet::test
