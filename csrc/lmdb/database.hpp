// One database: a file whose tree has been checked, as of the transaction that was committed last when it was
// opened. Nothing is locked, nothing is written, and a forked process may use it as its parent does.
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
    explicit Database(std::string path);

    const std::string& path() const { return file_.path(); }
    const File& file() const { return file_; }
    uint64_t entries() const { return meta_.entries; }

    // Looks up a key; false if it is absent. Any number of threads.
    bool find(std::string_view key, Value* value) const { return find_value(file_, meta_, key, value); }
    std::vector<Entry> list() const { return list_entries(file_, meta_); }  // in the order of their keys

    // Error if the file was truncated or deleted, or a writer has committed since: bytes read before may be
    // wrong.
    void check_unchanged() const;

  private:
    File file_;
    Meta meta_;
};

}  // namespace rsdnet
