// A database's file: mapped, or read piece by piece where a map would hurt (network file systems).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "lmdb/blocks.hpp"
#include "lmdb/fault.hpp"

namespace rsdnet {

enum class Access {
    kMap,    // the file is mapped: a read is a memcpy out of the page cache
    kPread,  // the file is read with pread; data() holds only what need() has fetched
};

class File {
  public:
    // Error, one line that names the path, if it cannot be opened or is no regular file.
    File(std::string path, Access access);
    ~File();
    File(const File&) = delete;
    File& operator=(const File&) = delete;

    const std::string& path() const { return path_; }
    Access access() const { return access_; }
    uint64_t size() const { return size_; }        // bytes, when it was opened
    const uint8_t* data() const { return data_; }  // null for an empty file

    // Makes data() + [offset, offset + bytes) the file's bytes, now. Error if the file cannot give them.
    void need(uint64_t offset, uint64_t bytes) const;
    // Copies bytes of the file, from disk if they are not in memory. Error if the file cannot give them.
    void read(uint64_t offset, uint64_t bytes, uint8_t* out, Stores stores = Stores::kCached) const;
    // As read, for bytes that need() has fetched.
    void copy(uint64_t offset, uint64_t bytes, uint8_t* out, Stores stores = Stores::kCached) const;

    // True if the file has these bytes at `offset`: those of `expected`. Scratch of that size is used by
    // kPread.
    bool equals(uint64_t offset, std::string_view expected, std::string& scratch) const;

    // Lets the kernel fetch a range before it is read.
    void ask_ahead(uint64_t offset, uint64_t bytes) const;
    // True if the page cache holds the pages of a range. In a map only.
    bool is_cached(uint64_t offset, uint64_t bytes) const;

    // Error if the file has been truncated or deleted.
    void check() const;

  private:
    void map();
    void reserve();
    void pread_all(uint64_t offset, uint64_t bytes, uint8_t* out) const;
    void check_range(uint64_t offset, uint64_t bytes) const;
    [[noreturn]] void fail_read(uint64_t offset) const;

    std::string path_;
    Access access_;
    int descriptor_ = -1;
    uint64_t size_ = 0;
    uint8_t* data_ = nullptr;
    Region* region_ = nullptr;
};

}  // namespace rsdnet
