// Python's keys and buffers, as C++ sees them.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "sampling/draws.hpp"

namespace rsdnet {

// Keys are UTF-8 by convention, bytes by nature: what is no UTF-8 goes through as Python's surrogate escapes.
pybind11::str text(std::string_view bytes);

// A key, str or bytes, encoded; TypeError that names its position if it is neither.
std::string encode(pybind11::handle key, size_t position);

// A sequence of str or bytes, encoded. TypeError that names the first item that is neither.
std::vector<std::string> parse_keys(const pybind11::object& keys);

// "ms+sar", "ms" or "sar". ValueError for anything else.
Modality parse_modality(const std::string& name);

// A whole number of 32 bits. ValueError that names it.
uint32_t parse_uint32(const char* name, int64_t value);

// An int64 array of one dimension that holds such numbers. ValueError or TypeError that names it.
std::vector<uint32_t> parse_numbers(const pybind11::buffer& buffer, const char* name);

// "(2, 3)"
std::string to_text(const std::vector<pybind11::ssize_t>& shape);

// An argument's memory, C-contiguous; held until this goes.
struct Buffer {
    // ValueError or TypeError that names the argument.
    Buffer(const pybind11::buffer& object, const char* name, bool writable = false);

    template <typename T>
    bool is() const {
        return info.item_type_is_equivalent_to<T>();
    }
    template <typename T>
    void need() const {
        if (!is<T>()) wrong_type(pybind11::format_descriptor<T>::format());
    }
    template <typename T>
    T* data() const {
        return static_cast<T*>(info.ptr);
    }
    std::string shape() const { return to_text(info.shape); }

    const char* name;
    pybind11::buffer_info info;

  private:
    [[noreturn]] void wrong_type(const std::string& expected) const;
};

}  // namespace rsdnet
