// How Python's calls reach the reader.
#pragma once

#include <pybind11/pybind11.h>

#include <mutex>

#include "reader.hpp"

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

}  // namespace rsdnet
