// A file mapped read-only, for the check before LMDB opens it.
#pragma once

#include <cstdint>
#include <string>

namespace rsdnet {

class Mapping {
  public:
    // Error, one line that names the path, if it cannot be opened or is no regular file.
    explicit Mapping(const std::string& path);
    ~Mapping();
    Mapping(const Mapping&) = delete;
    Mapping& operator=(const Mapping&) = delete;

    const uint8_t* data() const { return data_; }  // null for an empty file
    uint64_t size() const { return size_; }

  private:
    const uint8_t* data_ = nullptr;
    uint64_t size_ = 0;
};

}  // namespace rsdnet
