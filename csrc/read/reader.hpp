// Several databases as one: keys become entry handles, and batches of their bands are copied into a caller's
// buffer.
//
// Not a class for threads to share by itself: the bindings hold the lock and Python's GIL rules (see
// bind_reader.cpp).
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "lmdb/database.hpp"
#include "read/layouts.hpp"
#include "read/pool.hpp"

namespace rsdnet {

// An entry, and which database it is of.
struct Entry {
    uint64_t offset;  // of the value in the file
    const char* key;
    uint32_t bytes;  // of the value
    uint16_t key_bytes;
    uint16_t database;

    std::string_view name() const { return {key, key_bytes}; }
};

// One band of one sample, as gather() found it.
struct Source {
    const Database* database;
    uint64_t value, at, bytes;  // the value's offset in the file; the band's first byte in it, and how many
    int64_t height, width;
    int32_t dtype;  // gather code
};

// A record is int64 [byte offset in the buffer, dtype code, height, width, band id].
constexpr int64_t kRecordFields = 5;
// Bands start at multiples of this many bytes, so that a GPU can load them in wide words.
constexpr uint64_t kAlignment = 16;

inline uint64_t aligned(uint64_t bytes) {
    return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

// Items of work that a thread takes at once: header checks are short, copies long.
constexpr size_t kLocateChunk = 32, kCopyChunk = 8, kCheckChunk = 256;

class Reader {
  public:
    // `paths`: folders that hold data.mdb, or .mdb files. `threads`: 0 for all cores. Error as Database.
    Reader(std::vector<std::string> paths, Spellings spellings, int threads, Access access = Access::kMap);
    ~Reader();
    Reader(const Reader&) = delete;
    Reader& operator=(const Reader&) = delete;

    // True in a process that was forked from the one that made the threads.
    bool is_forked() const;
    // Starts threads anew. Databases and entries stay: a fork shares the maps.
    void restart();

    std::mutex& mutex() { return state_->mutex; }
    const std::vector<std::string>& paths() const { return paths_; }
    const Spellings& spellings() const { return spellings_; }
    int threads() const { return threads_; }
    Access access() const { return access_; }
    size_t databases() const { return databases_.size(); }
    uint64_t size() const;  // entries of all databases
    const Database& database(size_t index) const { return *databases_[index]; }

    Pool& pool() { return state_->pool; }
    RecentLayouts& recent(int worker) { return state_->recent[static_cast<size_t>(worker)]; }
    LayoutCache& layouts() { return state_->layouts; }

    // Finds a key in one database (its index) or in all (-1). Error if more than one of them has it.
    bool find(std::string_view key, int64_t database, Entry* entry) const;
    // Gives found entries their handles, the same handle for the same entry.
    void register_entries(const std::vector<Entry>& found, int64_t* handles);
    const std::vector<Entry>& entries() const { return entries_; }

    // Wraps a reason: database, key, reason.
    std::string describe_error(const Entry& entry, const std::string& reason) const;
    // Error if any database has been truncated or deleted (ask before any read) or written to (after it).
    void check_files() const;
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
        LayoutCache layouts;
        Pool pool;
        std::vector<RecentLayouts> recent;  // by worker
        std::vector<Source> sources;        // scratch of gather
    };

    Source locate(int64_t entry, int64_t band, RecentLayouts& recent);
    const Entry& entry_at(int64_t handle) const;
    uint64_t place(const int64_t* bands, size_t count, int64_t* records) const;
    size_t slot_of(const char* key) const;
    void grow_slots();

    std::vector<std::string> paths_;
    Spellings spellings_;
    int threads_;
    Access access_;
    long process_;
    std::vector<std::unique_ptr<Database>> databases_;
    std::unique_ptr<State> state_;
    std::vector<Entry> entries_;
    std::vector<int64_t> slots_;  // hash table of handles by key address; -1 free; a power of two long
};

}  // namespace rsdnet
