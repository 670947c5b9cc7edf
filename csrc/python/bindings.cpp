// The module rsdnet._reader.
#include "python/bindings.hpp"

#include "error.hpp"

namespace py = pybind11;

PYBIND11_MODULE(_reader, module) {
    module.doc() =
        "Reads databases of satellite patches (LMDB of safetensors, as rico-hdl writes them) at memory "
        "speed.";
    const py::object data_error = py::module_::import("rsdnet.errors").attr("DataError");
    py::register_local_exception<rsdnet::Error>(module, "ReaderError", data_error);
    rsdnet::bind_reader(module);
    rsdnet::bind_draws(module);
    rsdnet::bind_table(module);
    rsdnet::bind_stream(module);
    rsdnet::bind_survey(module);
}
