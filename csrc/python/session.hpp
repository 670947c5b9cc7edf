// How Python's calls reach the reader.
#pragma once

#include <pybind11/pybind11.h>

#include <mutex>
#include <string>

#include "error.hpp"
#include "read/reader.hpp"

namespace rsdnet {

// A stretch of work on the reader: without the GIL, with its mutex, on files that are as long as they were.
class Session {
  public:
    // `reads`: whether databases will be read.
    explicit Session(Reader& reader, bool reads = true) : lock_(reader.mutex()) {
        if (reads) reader.check_files();
    }

  private:
    pybind11::gil_scoped_release release_;  // first: nobody waits for the mutex with the GIL held
    std::lock_guard<std::mutex> lock_;
};

// The reader in this process: with threads of its own if this is a child of the one that made it.
inline Reader& here(Reader& reader) {
    if (reader.is_forked()) reader.restart();
    return reader;
}

// One of the reader's databases. IndexError if there is none.
inline const Database& database_of(const Reader& reader, int64_t index) {
    if (index < 0 || static_cast<uint64_t>(index) >= reader.databases()) {
        throw pybind11::index_error("database " + std::to_string(index) +
                                    " is out of range; the reader has " + std::to_string(reader.databases()));
    }
    return reader.database(static_cast<size_t>(index));
}

// The value of a key. Error if it is absent.
inline Value find_value(const Database& database, const std::string& key) {
    Value value{};
    if (!database.find(key, &value)) throw Error(database.path() + ": has no entry " + quoted(key));
    return value;
}

}  // namespace rsdnet
