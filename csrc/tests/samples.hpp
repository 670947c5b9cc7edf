// Samples to read in tests of Table and Stream: pairs of patches, and a check of what was read of them.
#pragma once

#include <cstring>
#include <memory>

#include "read/table.hpp"
#include "tests/check.hpp"
#include "tests/databases.hpp"

namespace rsdnet::test {

inline std::vector<int32_t> ids(const std::vector<const char*>& names) {
    std::vector<int32_t> out;
    for (const char* name : names) out.push_back(band_id(name));
    return out;
}

// A table of databases of pairs(), rows 0, 1, ... over all of them. Row r is patch `patch_of_row[r]`.
struct Samples {
    std::vector<std::unique_ptr<TemporaryFile>> files;
    std::unique_ptr<Reader> reader;
    std::unique_ptr<Table> table;
    std::vector<uint64_t> patch_of_row;
    uint64_t side;

    Samples(const std::vector<uint64_t>& counts, uint64_t patch_side, Modality modality = Modality::kMsAndSar,
            int threads = 2)
        : side(patch_side) {
        std::vector<std::string> paths;
        for (const uint64_t count : counts) {
            files.push_back(std::make_unique<TemporaryFile>(database_of(pairs(count, side))));
            paths.push_back(files.back()->path());
        }
        open(paths, counts, modality, threads);
    }

    Table::Faults open(const std::vector<std::string>& paths, const std::vector<uint64_t>& counts,
                       Modality modality, int threads) {
        reader = std::make_unique<Reader>(paths, spellings(), threads);
        table = std::make_unique<Table>(*reader, modality, ids({"B02", "B03", "B05", "B08", "B8A"}),
                                        ids({"VV", "VH"}));
        Table::Faults faults;
        for (size_t d = 0; d < counts.size(); ++d) {
            Table::Keys ms, sar;
            std::vector<int64_t> rows;
            for (uint64_t patch = 0; patch < counts[d]; ++patch) {
                ms.emplace_back(key_of("s2", patch)), sar.emplace_back(key_of("s1", patch));
                rows.push_back(static_cast<int64_t>(patch_of_row.size()));
                patch_of_row.push_back(patch);
            }
            for (auto& fault : table->add(d, rows.data(), rows.size(), ms, sar))
                faults.push_back(std::move(fault));
        }
        return faults;
    }

    // That a record of a row's patch describes a band of it, and `data` holds its pixels there.
    void check_band(const int64_t* record, const uint8_t* data, uint64_t row) const {
        const auto band = static_cast<int32_t>(record[4]);
        const bool sar = band == band_id("VV") || band == band_id("VH");
        const uint64_t pixels = band == band_id("B05") || band == band_id("B8A") ? side / 2 : side;
        CHECK(record[0] % 16 == 0 && record[1] == (sar ? 4 : 2));
        CHECK(record[2] == static_cast<int64_t>(pixels) && record[3] == record[2]);
        const uint8_t* const bytes = data + record[0];
        for (uint64_t i = 0; i < pixels * pixels; ++i) {
            const uint16_t expected = pixel(patch_of_row[row], static_cast<uint64_t>(band), i);
            if (sar) {
                float value;
                std::memcpy(&value, bytes + 4 * i, 4);
                CHECK(value == static_cast<float>(expected));
            } else {
                uint16_t value;
                std::memcpy(&value, bytes + 2 * i, 2);
                CHECK(value == expected);
            }
        }
    }
};

}  // namespace rsdnet::test
