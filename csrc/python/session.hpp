// How Python's calls reach the reader.
#pragma once

#include <pybind11/pybind11.h>

#include <mutex>
#include <optional>
#include <string>

#include "read/reader.hpp"

namespace rsdnet {

// A stretch of work on the reader: without the GIL, with its mutex, on files that are as long as they were.
class Session {
  public:
    // `reads`: whether databases will be read.
    explicit Session(Reader& reader, bool reads = true) : lock_(reader.mutex()) {
        if (!reads) return;
        arm_fault_handler();
        reader.check_files();
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

// The index that names one of the reader's databases; -1 for None: all of them. IndexError if there is none.
inline int64_t database_index(const Reader& reader, std::optional<int64_t> database) {
    if (!database) return -1;
    if (*database < 0 || static_cast<uint64_t>(*database) >= reader.databases()) {
        throw pybind11::index_error("database " + std::to_string(*database) +
                                    " is out of range; the reader has " + std::to_string(reader.databases()));
    }
    return *database;
}

}  // namespace rsdnet
