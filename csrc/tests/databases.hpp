// Databases for the tests and the fuzzer, written without the reader's code: safetensors values, and LMDB 0.9
// files of any page size (LMDB itself writes only the machine's). tests/csrc/test_cpp.py reads them with
// py-lmdb.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "safetensors/layout.hpp"

namespace rsdnet::test {

// The band names of rsdnet.bands, by band id.
const Spellings& spellings();
int32_t band_id(const std::string& name);

struct Array {
    std::string name;
    std::string dtype;  // as the header spells it
    std::vector<uint64_t> shape;
    std::string bytes;
};

// A safetensors value.
std::string value_of(const std::vector<Array>& arrays);
// A value of this header and payload, true or not.
std::string value_of(const std::string& header, const std::string& payload);

// Key to value; std::string orders bytes as LMDB does.
using Entries = std::map<std::string, std::string>;

struct Paging {
    uint32_t page_size = 4096;
    uint64_t transaction = 1;
    uint32_t leaf_nodes = 1 << 16;    // at most, a page: few nodes make deep trees
    uint32_t branch_nodes = 1 << 16;  // at least 2
};

// The bytes of an LMDB data file.
std::string database_of(const Entries& entries, const Paging& paging = {});

// Pixel `i` of band `band` of patch `patch`: what the patches below hold.
constexpr uint16_t pixel(uint64_t patch, uint64_t band, uint64_t i) {
    return static_cast<uint16_t>(patch * 40503 + band * 257 + i * 3);
}
// "s2_007" or "s1_007".
std::string key_of(const char* sensor, uint64_t patch);
// An S2 patch: B02, B03, B08 of `side` pixels, B05, B8A of half; uint16. An S1 patch: VH, VV, float32.
std::string ms_patch(uint64_t patch, uint64_t side);
std::string sar_patch(uint64_t patch, uint64_t side);
// `count` of each.
Entries pairs(uint64_t count, uint64_t side);

// Small databases of other page sizes, by file name, for the corpus.
std::map<std::string, std::string> seeds();

void write_file(const std::string& path, const std::string& content);

// A file of this content, in memory where /dev/shm is; gone with the object.
class TemporaryFile {
  public:
    explicit TemporaryFile(const std::string& content);
    ~TemporaryFile();
    TemporaryFile(const TemporaryFile&) = delete;
    TemporaryFile& operator=(const TemporaryFile&) = delete;

    const std::string& path() const { return path_; }
    void truncate(uint64_t size) const;
    void remove() const;  // its name; who has it open keeps it
    void write(uint64_t offset, const std::string& bytes) const;

  private:
    int file_;
    std::string path_;
};

}  // namespace rsdnet::test
