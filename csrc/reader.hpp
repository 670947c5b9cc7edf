// Several databases as one: keys become entry handles, and batches of their bands are copied into a caller's
// buffer.
//
// Not a class for threads to share by itself: the bindings hold the lock and Python's GIL rules (see
// bindings.cpp).
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "environment.hpp"
#include "layout.hpp"
#include "pool.hpp"

namespace rsdnet {

// A registered entry: where its value lies in the map.
struct Entry {
    Item item;
    uint16_t database;
};

// One band of one sample, as gather() found it. Bytes of the record: see kRecordFields.
struct Source {
    const uint8_t* data;
    uint64_t bytes;
    int64_t height, width;
    int32_t dtype;  // gather code
};

// A record is int64 [byte offset in the buffer, dtype code, height, width, band id].
constexpr int64_t kRecordFields = 5;
// Bands start at multiples of this many bytes, so that a GPU can load them in wide words.
constexpr uint64_t kAlignment = 16;

// The layouts seen so far, by their header's bytes. Threads may share it.
class LayoutCache {
  public:
    // The layout with this header, or null.
    const Layout* find(std::string_view header) const;
    // Takes a layout and gives the one kept; null if the cache is full (then the caller keeps its own).
    const Layout* add(std::unique_ptr<Layout>& layout);

  private:
    mutable std::mutex mutex_;
    std::unordered_map<std::string_view, std::unique_ptr<Layout>> layouts_;
};

// The layouts that one thread met last: nearly always the next entry has one of them.
struct RecentLayouts {
    static constexpr size_t kCount = 4;
    const Layout* layouts[kCount] = {};
    size_t oldest = 0;
    std::unique_ptr<Layout> own;  // a layout that the full cache did not take
};

class Reader {
  public:
    // `paths`: folders that hold data.mdb, or .mdb files. `threads`: 0 for all cores. Error as Environment.
    Reader(std::vector<std::string> paths, Spellings spellings, int threads);
    ~Reader();
    Reader(const Reader&) = delete;
    Reader& operator=(const Reader&) = delete;

    // True in a process that was forked from the one that opened the databases.
    bool is_forked() const;
    // Opens the databases again and starts threads anew. Entries keep their handles.
    void reopen();

    std::mutex& mutex() { return state_->mutex; }
    const std::vector<std::string>& paths() const { return paths_; }
    const Spellings& spellings() const { return spellings_; }
    int threads() const { return threads_; }
    size_t databases() const { return paths_.size(); }
    uint64_t size() const;  // entries of all databases

    Environment& database(size_t index) { return *state_->databases[index]; }

    // Finds a key in one database (its index) or in all (-1). Error if more than one of them has it.
    bool find(std::string_view key, int64_t database, Entry* entry);
    // Gives found entries their handles, the same handle for the same entry.
    void register_entries(const std::vector<Entry>& found, int64_t* handles);
    const std::vector<Entry>& entries() const { return entries_; }

    // The layout of an entry, its header checked byte for byte. Error with the reason alone.
    const Layout& layout_of(const Entry& entry, RecentLayouts& recent);
    // Wraps a reason: database, key, reason.
    std::string describe_error(const Entry& entry, const std::string& reason) const;
    // Error if any database has been truncated (ask before any read) or written to (ask after it).
    void check_sizes() const;
    void check_unchanged() const;

    // Copies band bands[i] of entry entries[i] for all i < count to `out` and describes each in `records`.
    // Returns the bytes they take; where `capacity` is less, nothing is copied. Error if one cannot be read.
    uint64_t gather(const int64_t* entries, const int64_t* bands, size_t count, uint8_t* out,
                    uint64_t capacity, int64_t* records);
    // The pairs that gather() could not read, by position, with the reason. Reads headers only.
    std::vector<std::pair<size_t, std::string>> check(const int64_t* entries, const int64_t* bands,
                                                      size_t count);

  private:
    // What belongs to one process: after a fork it is left behind as it is and made anew.
    struct State {
        explicit State(int threads) : pool(threads), recent(static_cast<size_t>(pool.threads())) {}
        std::mutex mutex;
        std::vector<std::unique_ptr<Environment>> databases;
        LayoutCache layouts;
        Pool pool;
        std::vector<RecentLayouts> recent;  // by worker
        std::vector<Source> sources;        // scratch of gather
    };

    void open();
    Source locate(int64_t entry, int64_t band, RecentLayouts& recent);
    const Entry& entry_at(int64_t handle) const;
    uint64_t place(const int64_t* bands, size_t count, int64_t* records) const;
    size_t slot_of(const char* key) const;
    void grow_slots();

    std::vector<std::string> paths_;
    Spellings spellings_;
    int threads_;
    long process_;
    std::unique_ptr<State> state_;
    std::vector<Entry> entries_;
    std::vector<int64_t> slots_;  // hash table of handles by key address; -1 free; a power of two long
};

}  // namespace rsdnet
