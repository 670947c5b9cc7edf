// One LMDB file, opened read-only and checked, and one snapshot of it.
//
// It is opened without LMDB's lock file (MDB_NOLOCK): so it works in folders that cannot be written to,
// leaves nothing behind, knows no limit on readers, and may be open any number of times in one process (LMDB
// forbids that otherwise: closing one descriptor of a lock file drops the locks of all). What the lock would
// give, that a writer leaves our pages alone, is had by looking instead: a writer overwrites pages of our
// snapshot only after it committed another transaction, so check_unchanged() after a read says whether the
// bytes read are those of the snapshot.
#pragma once

#include <lmdb.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace rsdnet {

// An entry in the map. The pointers live as long as the Environment.
struct Item {
    const uint8_t* value;
    const char* key;
    uint32_t value_bytes;  // LMDB stores sizes in 32 bits
    uint16_t key_bytes;
};

class Environment {
  public:
    // `path`: the data file. Error, one line that names it, if it cannot be read or is no sound LMDB
    // database.
    explicit Environment(std::string path);
    ~Environment();
    Environment(const Environment&) = delete;
    Environment& operator=(const Environment&) = delete;

    const std::string& path() const { return path_; }
    uint64_t entries() const { return entries_; }
    uint64_t transaction() const { return transaction_; }

    // Looks up a key; false if it is absent. One thread at a time.
    bool find(std::string_view key, Item* item);
    std::vector<Item> items();  // in the order of their keys. One thread at a time.

    // Error if the file has shrunk: its map must then not be read.
    void check_size() const;
    // Error if a writer has committed since the snapshot was taken: bytes read before may be wrong.
    void check_unchanged() const;

  private:
    void open();
    void close();
    [[noreturn]] void fail(const char* what, int code) const;

    std::string path_;
    uint64_t size_ = 0;  // bytes of the file when it was opened
    uint64_t entries_ = 0;
    uint64_t transaction_ = 0;
    MDB_env* env_ = nullptr;
    MDB_txn* txn_ = nullptr;
    MDB_cursor* cursor_ = nullptr;
};

}  // namespace rsdnet
