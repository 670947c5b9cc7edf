// The parts of the module rsdnet._reader.
#pragma once

#include <pybind11/pybind11.h>

namespace rsdnet {

void bind_reader(pybind11::module_& module);
void bind_draws(pybind11::module_& module);
void bind_table(pybind11::module_& module);
void bind_stream(pybind11::module_& module);
void bind_survey(pybind11::module_& module);

}  // namespace rsdnet
