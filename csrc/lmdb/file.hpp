// A database's file, read with pread: no memory map, so a file that is truncated under the reader is an error
// and not a signal, and network file systems need no other way.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace rsdnet {

class File {
  public:
    // Error, one line that names the path, if it cannot be opened or is no regular file.
    explicit File(std::string path);
    ~File();
    File(const File&) = delete;
    File& operator=(const File&) = delete;

    const std::string& path() const { return path_; }
    uint64_t size() const { return size_; }  // bytes, when it was opened

    // Copies bytes of the file. Error if the file cannot give them.
    void read(uint64_t offset, uint64_t bytes, uint8_t* out) const;
    // Whether the file has these bytes at `offset`. `scratch`: memory to read into.
    bool equals(uint64_t offset, std::string_view expected, std::string& scratch) const;

    // Asks the kernel to fetch a range before it is read.
    void ask_ahead(uint64_t offset, uint64_t bytes) const;
    // Whether the page cache holds the byte at `offset`; false where the file system cannot tell.
    bool is_cached(uint64_t offset) const;

    // Error if the file has been truncated or deleted.
    void check() const;

  private:
    std::string path_;
    int descriptor_ = -1;
    uint64_t size_ = 0;
};

}  // namespace rsdnet
