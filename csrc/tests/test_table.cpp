#include "read/table.hpp"

#include "tests/samples.hpp"

namespace rsdnet::test {
namespace {

// Bands drawn at random of all samples, gathered into memory of the exact size, and checked.
void check_gather(const Samples& samples, uint64_t seed) {
    const Table& table = *samples.table;
    const BandDraw draw = {seed, 0, 2, 1, table.pool(false), table.pool(true), table.modality()};
    std::vector<int64_t> positions;
    std::vector<uint32_t> rows, scratch;
    for (size_t sample = 0; sample < table.size(); ++sample) {
        positions.push_back(static_cast<int64_t>((sample * 7 + seed) % table.size()));
        rows.push_back(table.row(static_cast<size_t>(positions.back())));
    }
    std::vector<int32_t> bands(2 * rows.size());
    draw_bands(draw, rows.data(), rows.size(), bands.data(), scratch);
    std::vector<int64_t> records(bands.size() * kRecordFields);
    const auto gather = [&](uint8_t* out, uint64_t capacity) {
        return table.gather(positions.data(), positions.size(), bands.data(), 2, out, capacity,
                            records.data());
    };
    const uint64_t needed = gather(nullptr, 0);
    std::vector<uint8_t> out(needed);
    CHECK(gather(out.data(), needed) == needed);
    for (size_t i = 0; i < bands.size(); ++i) {
        const int64_t* const record = &records[i * kRecordFields];
        CHECK(record[4] == bands[i]);
        samples.check_band(record, out.data(), rows[i / 2]);
    }
}

}  // namespace

TEST(a_table_gathers_the_pixels_that_were_written) {
    for (const Modality modality : {Modality::kMsAndSar, Modality::kMs, Modality::kSar}) {
        const Samples samples({7, 1, 12}, 10, modality, 3);
        CHECK((samples.table->counts() == std::vector<uint64_t>{7, 1, 12}) && samples.table->size() == 20);
        for (uint64_t seed = 0; seed < 4; ++seed) check_gather(samples, seed);
    }
}

TEST(band_bytes_are_those_of_the_largest_band) {
    const Samples samples({3}, 9);
    CHECK(samples.table->band_bytes(false) == 176);  // 9 * 9 * 2, to the next multiple of 16
    CHECK(samples.table->band_bytes(true) == 336);   // 9 * 9 * 4
}

TEST(samples_that_cannot_be_read_are_left_out_with_the_reason) {
    Entries entries = pairs(6, 4);
    entries["s2_001"] = std::string(60, 'x');
    entries["s1_002"] = value_of({{"VV", "F32", {1, 1}, "abcd"}});
    entries["s2_003"] = value_of({{"B02", "I64", {1, 1}, "abcdefgh"}});
    entries.erase("s1_004");
    const TemporaryFile file(database_of(entries));
    Reader reader({file.path()}, spellings(), 3);
    Table table(reader, Modality::kMsAndSar, ids({"B02"}), ids({"VV", "VH"}));
    Table::Keys ms, sar;
    std::vector<int64_t> rows;
    for (uint64_t patch = 0; patch < 6; ++patch) {
        ms.emplace_back(key_of("s2", patch)), sar.emplace_back(key_of("s1", patch));
        rows.push_back(100 + static_cast<int64_t>(patch));
    }
    ms[5].reset();
    const Table::Faults faults = table.add(0, rows.data(), rows.size(), ms, sar);
    const char* const reasons[] = {"entry 's2_001': its header claims",
                                   "entry 's1_002': it has no band VH (it has VV)",
                                   "entry 's2_003': band B02 is int64", "'s1_004'", "no ms entry"};
    CHECK(faults.size() == 5 && table.size() == 1 && table.row(0) == 100);
    for (size_t i = 0; i < 5; ++i) {
        CHECK(faults[i].first == i + 1 && faults[i].second.find(reasons[i]) != std::string::npos);
    }
}

TEST(a_table_refuses_what_it_was_not_made_for) {
    const Samples samples({2}, 4, Modality::kMs);
    Scratch scratch;
    uint64_t offset = 0;
    int64_t record[kRecordFields];
    const int64_t position = 2;
    for (const int32_t band : {-1, band_id("B04"), band_id("VV"), 15, INT32_MAX}) {
        CHECK_ERROR(samples.table->describe(0, &band, 1, offset, record, scratch), "is not of the bands");
    }
    const int32_t band = band_id("B02");
    CHECK_ERROR(samples.table->gather(&position, 1, &band, 1, nullptr, 0, record), "there is no sample 2");
    CHECK_ERROR(Table(*samples.reader, Modality::kMs, {15}, {}), "band id 15 is out of range");
    const int64_t row = 9;
    const Samples two({2, 2}, 4);
    CHECK_ERROR(two.table->add(0, &row, 1, {"s2_000"}, {"s1_000"}), "order of their databases");
}

TEST(a_table_that_refused_a_row_still_reads_rightly) {
    Samples samples({2, 3}, 6);
    const int64_t rows[] = {5, -1};
    CHECK_ERROR(samples.table->add(1, rows, 2, {"s2_000", "s2_001"}, {"s1_000", "s1_001"}), "row");
    samples.patch_of_row.push_back(0);  // of row 5, should it have been added
    check_gather(samples, 1);
}

TEST(a_table_tells_the_keys_of_its_samples) {
    for (const Modality modality : {Modality::kMsAndSar, Modality::kMs, Modality::kSar}) {
        const Samples samples({5, 4}, 8, modality);
        for (size_t database = 0; database < 2; ++database) {
            const auto [ms, sar] = samples.table->keys(database);
            CHECK(ms.size() == (modality == Modality::kSar ? 0 : 5 - database));
            CHECK(sar.size() == (modality == Modality::kMs ? 0 : 5 - database));
            for (size_t i = 0; i < ms.size(); ++i) CHECK(ms[i] == key_of("s2", i));
            for (size_t i = 0; i < sar.size(); ++i) CHECK(sar[i] == key_of("s1", i));
        }
    }
}

TEST(a_table_whose_file_goes_is_an_error) {
    for (const bool cut : {true, false}) {
        const Samples samples({20}, 40);
        check_gather(samples, 0);
        if (cut) samples.files[0]->truncate(20000);
        if (!cut) samples.files[0]->remove();
        CHECK_ERROR(check_gather(samples, 0), cut ? "was truncated while" : "was deleted or replaced while");
        CHECK_ERROR(samples.reader->check_files(), cut ? "was truncated while" : "was deleted or replaced");
    }
}

TEST(samples_in_a_cache_need_no_database) {
    for (const uint64_t piece : {1, 4, 9}) {
        Samples samples({5, 4}, 8);
        const uint64_t bytes = samples.table->lay_out();
        CHECK(bytes == 9 * (3 * 128 + 2 * 32 + 2 * 256));
        std::vector<uint8_t> arena(bytes);
        for (uint64_t first = 0; first < 9; first += piece) {
            samples.table->load(arena.data() + samples.table->place(first), first,
                                std::min<uint64_t>(piece, 9 - first));
        }
        samples.table->keep(arena.data());
        for (const auto& file : samples.files) file->truncate(0), file->remove();
        check_gather(samples, 5);
        CHECK_ERROR(samples.table->keep(arena.data()), "in a cache already");
    }
}

TEST(records_of_a_cache_elsewhere_point_into_it) {
    Samples samples({3}, 8);
    std::vector<uint8_t> arena(samples.table->lay_out());
    samples.table->load(arena.data(), 0, 3);
    samples.table->keep(nullptr);
    const std::vector<int32_t> bands = ids({"B02", "VH", "B8A"});
    Scratch scratch;
    for (uint32_t sample = 0; sample < 3; ++sample) {
        uint64_t offset = 0;
        int64_t records[3 * kRecordFields];
        samples.table->describe(sample, bands.data(), 3, offset, records, scratch);
        CHECK(offset == 0);
        for (size_t i = 0; i < 3; ++i) samples.check_band(records + kRecordFields * i, arena.data(), sample);
    }
}

TEST(a_header_that_changed_since_is_an_error_with_the_key) {
    Samples samples({4}, 20, Modality::kMs);
    const int64_t position = 2;
    const int32_t band = band_id("B03");
    std::vector<uint8_t> out(20 * 20 * 2);
    int64_t record[kRecordFields];
    const auto gather = [&] {
        samples.table->gather(&position, 1, &band, 1, out.data(), out.size(), record);
    };
    gather();
    Value value{};
    CHECK(samples.reader->database(0).find("s2_002", &value));
    samples.files[0]->write(value.offset + 12, "X");
    CHECK_ERROR(gather(), "entry 's2_002': its header is not the one");
}

TEST(values_of_more_layouts_than_a_table_shares_are_read) {
    Entries entries;
    Table::Keys keys;
    std::vector<int64_t> rows;
    constexpr size_t kCount = 4200;
    for (size_t i = 0; i < kCount; ++i) {
        const std::string key = "k" + std::to_string(i);
        entries[key] = value_of({{"B02", "U8", {1, i + 1}, std::string(i + 1, static_cast<char>(i))}});
        keys.emplace_back(key);
        rows.push_back(static_cast<int64_t>(i));
    }
    const TemporaryFile file(database_of(entries));
    Reader reader({file.path()}, spellings(), 2);
    Table table(reader, Modality::kMs, ids({"B02"}), {});
    CHECK(table.add(0, rows.data(), rows.size(), keys, {}).empty());
    CHECK(table.band_bytes(false) == 4208);
    const int32_t band = band_id("B02");
    for (const int64_t position : {0, 4000, 4095, 4096, 4199}) {
        std::vector<uint8_t> out(aligned(static_cast<uint64_t>(position) + 1));
        int64_t record[kRecordFields];
        CHECK(table.gather(&position, 1, &band, 1, out.data(), out.size(), record) == out.size());
        const uint8_t* const row = out.data() + record[0];
        CHECK(record[3] == position + 1 && row[0] == static_cast<uint8_t>(position) &&
              row[position] == row[0]);
    }
}

// So many layouts that some values have one of their own, whose header is parsed at each reading.
TEST(a_header_that_grew_since_its_band_was_laid_out_does_not_write_past_its_place) {
    Entries entries;
    Table::Keys keys;
    std::vector<int64_t> rows;
    const auto value = [](size_t pixels) {  // of 8,192 bytes: two bands, the first of so many pixels
        const std::string end = std::to_string(8000);
        const std::string header = "{\"B02\":{\"dtype\":\"U8\",\"shape\":[1," + std::to_string(pixels) +
                                   "],\"data_offsets\":[0," + std::to_string(pixels) +
                                   "]},\"rest\":{\"dtype\":\"U8\",\"shape\":[" +
                                   std::to_string(8000 - pixels) + "],\"data_offsets\":[" +
                                   std::to_string(pixels) + "," + end + "]}}";
        return value_of(header + std::string(184 - header.size(), ' '), std::string(8000, 'p'));
    };
    for (size_t i = 0; i < 4100; ++i) {
        keys.emplace_back("k" + std::to_string(i));
        entries[*keys.back()] = value(i + 1);
        rows.push_back(static_cast<int64_t>(i));
    }
    const TemporaryFile file(database_of(entries));
    Reader reader({file.path()}, spellings(), 2);
    Table table(reader, Modality::kMs, ids({"B02"}), {});
    CHECK(table.add(0, rows.data(), rows.size(), keys, {}).empty());
    const int32_t band = band_id("B02");
    const uint32_t sample = 4099;
    Value place{};
    CHECK(reader.database(0).find("k4099", &place));
    Scratch scratch;
    uint64_t offset = 0;
    int64_t record[kRecordFields];
    table.describe(sample, &band, 1, offset, record, scratch);
    std::vector<uint8_t> out(offset);  // AddressSanitizer sees a byte more
    table.copy(sample, record, 1, out.data(), scratch);
    file.write(place.offset, value(7900));
    CHECK_ERROR(table.copy(sample, record, 1, out.data(), scratch), "entry 'k4099'");
}

}  // namespace rsdnet::test
