// The samples that can be read: for each, where the values of its patches lie. 24 bytes a sample.
//
// Keys are looked up and headers checked once, when samples are added; after that a sample is a number. Its
// bands come out of the databases, or out of one block of memory that holds them all (a cache).
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "read/blocks.hpp"
#include "read/reader.hpp"
#include "sampling/draws.hpp"

namespace rsdnet {

// A record is int64 [byte offset in the buffer, dtype code, height, width, band id].
constexpr int64_t kRecordFields = 5;
// Bands start at multiples of this many bytes, so that a GPU can load them in wide words.
constexpr uint64_t kAlignment = 16;

inline uint64_t aligned(uint64_t bytes) {
    return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

// A band of a value: where it lies and what it is.
struct Image {
    uint64_t at, bytes;  // from the value's first byte
    int64_t height, width;
    int32_t dtype;  // gather code

    bool operator==(const Image& other) const {
        return at == other.at && bytes == other.bytes && height == other.height && width == other.width &&
               dtype == other.dtype;
    }
};

// What one thread needs to read samples.
struct Scratch {
    RecentLayouts recent;
    std::vector<Image> own;
};

// Samples that a thread takes at once.
constexpr size_t kSamplesAtOnce = 16;

class Table {
  public:
    using Keys = std::vector<std::optional<std::string>>;
    using Faults = std::vector<std::pair<size_t, std::string>>;

    // `reader` must outlive the table. Pools: the bands that a sample's patch of each sensor must hold.
    Table(Reader& reader, Modality modality, std::vector<int32_t> ms_pool, std::vector<int32_t> sar_pool);

    // Adds the samples whose entries can be read, and says why the others cannot: index, reason. `rows`:
    // their numbers. Keys of a sensor that the modality lacks are ignored. On all threads of the reader;
    // databases come in ascending order. Call under the reader's mutex.
    Faults add(size_t database, const int64_t* rows, size_t count, const Keys& ms, const Keys& sar);

    Reader& reader() const { return reader_; }
    Modality modality() const { return modality_; }
    const std::vector<int32_t>& pool(bool sar) const { return pools_[sar]; }
    size_t size() const { return samples_.size(); }
    uint32_t row(size_t sample) const { return samples_[sample].row; }
    const std::vector<uint64_t>& counts() const { return counts_; }  // samples per database
    uint64_t band_bytes(bool sar) const;  // the largest band of a sensor's pool, aligned

    // Lays out bands[i] of a sample, i < count, from `offset` on: moves `offset` past them and writes
    // records. Error as image_of, with database and key.
    void describe(uint32_t sample, const int32_t* bands, size_t count, uint64_t& offset, int64_t* records,
                  Scratch& scratch) const;
    // Copies the bands of `count` records of a sample to their places in `out`, after its headers have been
    // compared. Error with database, key and reason.
    void copy(uint32_t sample, const int64_t* records, size_t count, uint8_t* out, Scratch& scratch,
              Stores stores = Stores::kCached) const;
    // Copies bands (count, each) of the samples at positions (count) to `out` and fills records (count, each,
    // 5). Returns the bytes they take; where `capacity` is less, nothing is copied. On all threads of the
    // reader; call under its mutex.
    uint64_t gather(const int64_t* positions, size_t count, const int32_t* bands, size_t each, uint8_t* out,
                    uint64_t capacity, int64_t* records) const;
    // Has the processor fetch what describe() reads of a sample.
    void prefetch(uint32_t sample) const { __builtin_prefetch(&samples_[sample]); }
    // Has the kernel fetch what copy() will read. Returns the ranges asked for.
    size_t ask_ahead(uint32_t sample, const int32_t* bands, size_t count, Scratch& scratch) const;
    // Whether the page cache holds the start of a band of the sample.
    bool is_cached(uint32_t sample, int32_t band, Scratch& scratch) const;
    // Error if a database that is still read has changed.
    void check_unchanged() const;

    // A cache: every band of every sample in one block of memory, the arena. lay_out() gives its bytes;
    // load() fills the part of samples [first, first + count), which begins at byte place(first); keep()
    // makes the table read from the arena alone. A null arena is one on a GPU: records point into it, nothing
    // is copied.
    uint64_t lay_out();
    uint64_t place(size_t first);
    void load(uint8_t* part, size_t first, size_t count);
    void keep(const uint8_t* arena);
    bool is_kept() const { return kept_; }
    bool is_elsewhere() const { return kept_ && !arena_; }

    // The keys of the samples of a database, as add() took them. Slow: lists its entries.
    std::pair<Keys, Keys> keys(size_t database) const;

  private:
    // Offset of a value (48 bits), and which layout it has: an index into layouts_, or kOwnLayout.
    using ValueRef = uint64_t;
    static constexpr uint64_t kOwnLayout = 0xFFFF;
    // Together, so that a sample takes one line of the processor's cache.
    struct Sample {
        ValueRef refs[2];  // [sar]
        uint32_t row, unused;
    };
    static uint64_t offset_of(ValueRef ref) { return ref >> 16; }
    static uint64_t layout_of(ValueRef ref) { return ref & 0xFFFF; }

    bool shows(bool sar) const {
        return modality_ == Modality::kMsAndSar || sar == (modality_ == Modality::kSar);
    }
    size_t database_of(uint32_t sample) const;
    std::pair<bool, size_t> pool_index(int32_t band) const;
    std::vector<Image> images_of(const Layout& layout, bool sar) const;
    std::string look_up(size_t database, bool sar, const std::optional<std::string>& key, Value& value) const;
    std::string check_header(size_t database, bool sar, const std::string& key, const Value& value,
                             RecentLayouts& recent) const;
    void append(size_t database, uint32_t row, const Value (&values)[2]);
    ValueRef register_value(bool sar, uint32_t sample, const Value& value, const Layout& layout);
    const std::vector<Image>& images(uint32_t sample, bool sar, Scratch& scratch) const;
    void check_prefix(uint32_t sample, bool sar, Scratch& scratch) const;
    [[noreturn]] void fail(uint32_t sample, bool sar, const std::string& reason) const;

    Reader& reader_;
    Modality modality_;
    std::array<std::vector<int32_t>, 2> pools_;  // [sar]
    std::vector<int32_t> pool_index_;            // by band id: 2 * index in its pool + sar, or -1
    std::vector<Sample> samples_;
    std::vector<uint64_t> counts_, first_;          // per database
    std::vector<std::unique_ptr<Layout>> layouts_;  // layouts that values share
    std::unordered_map<std::string_view, uint64_t> by_prefix_;
    std::array<std::vector<std::vector<Image>>, 2>
        images_;  // by layout (or by shape, once kept): per pool index
    std::array<std::unordered_map<uint32_t, uint32_t>, 2> own_bytes_;  // of values with a layout of their own

    std::vector<std::array<ValueRef, 2>> kept_refs_;
    std::array<std::vector<std::vector<Image>>, 2> kept_images_;
    uint64_t arena_bytes_ = 0;
    const uint8_t* arena_ = nullptr;
    bool kept_ = false;
};

}  // namespace rsdnet
