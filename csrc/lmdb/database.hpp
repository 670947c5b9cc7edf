// One database: a file whose tree has been checked, and the values of its entries.
//
// It is a snapshot: what was committed when it was opened. Nothing is locked, nothing is written, and a fork
// may use it as its parent does.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "lmdb/file.hpp"
#include "lmdb/tree.hpp"

namespace rsdnet {

class Database {
  public:
    // `path`: the data file. Error, one line that names it, if it cannot be read or is no sound LMDB
    // database.
    Database(std::string path, Access access);

    const std::string& path() const { return file_.path(); }
    const File& file() const { return file_; }
    uint64_t entries() const { return meta_.entries; }
    uint64_t transaction() const { return meta_.transaction; }

    // Looks up a key; false if it is absent. Any number of threads.
    bool find(std::string_view key, Item* item) const { return find_item(file_, meta_, key, item); }
    std::vector<Item> items() const { return list_items(file_, meta_); }  // in the order of their keys

    // The value at `offset`: its bytes from `at` on. Error if the file cannot give them.
    void read(uint64_t offset, uint64_t at, uint64_t bytes, uint8_t* out,
              Stores stores = Stores::kCached) const;
    // True if the value at `offset` begins with `expected`. `scratch` is memory to use.
    bool begins_with(uint64_t offset, std::string_view expected, std::string& scratch) const;

    // Error if the file was truncated or deleted, or a writer has committed since: bytes read before may be
    // wrong.
    void check_unchanged() const;

  private:
    bool is_fetched(uint64_t offset) const {
        return file_.access() == Access::kMap || !is_overflow(meta_, offset);
    }

    File file_;
    Meta meta_;
};

}  // namespace rsdnet
