// A pass over every entry of a database: which are damaged, and which tensors the sound ones hold.
//
// It runs in pieces, so that a caller can show how far it is and stop between two of them.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "read/reader.hpp"

namespace rsdnet {

class Survey {
  public:
    // An entry that cannot be read, and why.
    struct Damage {
        size_t database;
        std::string key, reason;  // without file and key
    };
    // What the entries of one schema hold, in payload order.
    struct Column {
        std::string name;
        const char* dtype;  // as numpy spells it
        std::vector<uint64_t> shape;
    };
    struct Schema {
        std::vector<Column> columns;
        uint64_t entries;
    };

    // `database`: the index of one, or -1 for all. `whole`: read every byte of every value, not headers
    // alone.
    Survey(const Reader& reader, int64_t database, bool whole);

    uint64_t total() const { return entries_.size(); }
    uint64_t done() const { return done_; }
    uint64_t bytes() const;    // of the values looked at so far
    uint64_t payload() const;  // bytes of the sound entries' tensors
    // Looks at the next `count` entries, on all threads of the reader's pool. Returns done().
    // Error if a database was truncated, deleted or written to: what was found before may be wrong.
    uint64_t advance(Reader& reader, uint64_t count);

    std::vector<Damage> damaged() const;  // by database, then by key
    std::vector<Schema> schemas() const;  // most entries first
    // Sound entries whose schema schemas() leaves out: there are too many different ones.
    uint64_t unlisted() const;

    static constexpr size_t kMostSchemas = 1 << 14;  // a thread, beyond those in the reader's cache

  private:
    // What one thread found.
    struct Found {
        std::vector<Damage> damaged;
        std::unordered_map<const Layout*, uint64_t> cached;  // entries by layout of the reader's cache
        std::unordered_map<std::string, Schema> others;      // by their text, of layouts that it did not take
        uint64_t unlisted = 0, bytes = 0, payload = 0;
        std::vector<uint8_t> block;
    };

    struct Listed {
        size_t database;
        Entry entry;
    };

    void look(const Reader& reader, const Listed& listed, RecentLayouts& recent, Found& found) const;
    void read_whole(const File& file, const Value& value, Found& found) const;
    void count(const Layout& layout, bool is_cached, Found& found) const;
    void ask_ahead(const Reader& reader, size_t begin, size_t end) const;

    bool whole_;
    uint64_t done_ = 0;
    std::vector<Listed> entries_;  // in the order in which their values lie on disk
    std::vector<Found> found_;     // by worker
};

}  // namespace rsdnet
