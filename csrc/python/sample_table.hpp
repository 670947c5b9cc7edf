// A Table as Python holds it: with its reader, and with the memory of its cache.
#pragma once

#include <pybind11/pybind11.h>

#include <memory>
#include <optional>

#include "python/convert.hpp"
#include "read/table.hpp"

namespace rsdnet {

struct SampleTable {
    pybind11::object reader;
    std::unique_ptr<Table> table;
    std::optional<Buffer> arena;
};

}  // namespace rsdnet
