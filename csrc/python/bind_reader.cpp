// rsdnet._reader.Reader: what Python sees of the reader.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "error.hpp"
#include "python/bindings.hpp"
#include "python/convert.hpp"
#include "python/session.hpp"
#include "read/reader.hpp"

namespace py = pybind11;

namespace rsdnet {
namespace {

py::array_t<bool> contains(Reader& self, const py::object& names, int64_t database) {
    Reader& reader = here(self);
    const Database& from = database_of(reader, database);
    const std::vector<std::string> keys = parse_keys(names);
    py::array_t<bool> result(static_cast<py::ssize_t>(keys.size()));
    bool* out = result.mutable_data();
    {
        const Session session(reader);
        Value value{};
        for (const std::string& key : keys) *out++ = from.find(key, &value);
        reader.check_unchanged();
    }
    return result;
}

py::list keys(Reader& self, int64_t database) {
    Reader& reader = here(self);
    const Database& from = database_of(reader, database);
    std::vector<Entry> entries;
    {
        const Session session(reader);
        entries = from.list();
        reader.check_unchanged();
    }
    py::list out(entries.size());
    for (size_t i = 0; i < entries.size(); ++i) out[i] = text(entries[i].key);
    return out;
}

py::dict describe(Reader& self, const py::object& key, int64_t database) {
    Reader& reader = here(self);
    const Database& from = database_of(reader, database);
    const std::string name = encode(key, 0);
    std::vector<Tensor> tensors;
    {
        const Session session(reader);
        const Value value = find_value(from, name);
        try {
            tensors = reader.layout(static_cast<size_t>(database), value, reader.recent(0)).tensors;
        } catch (const FileError&) {
            throw;
        } catch (const Error& error) {
            throw Error(reader.describe_error(static_cast<size_t>(database), name, error.what()));
        }
        reader.check_unchanged();
    }
    py::dict out;
    for (const Tensor& tensor : tensors)
        out[text(tensor.name)] = py::make_tuple(tensor.dtype->name, py::tuple(py::cast(tensor.shape)));
    return out;
}

std::unique_ptr<Reader> make(const py::object& paths, Spellings bands, int64_t threads) {
    const py::module_ path = py::module_::import("os.path");
    const py::module_ os = py::module_::import("os");
    if (py::isinstance<py::str>(paths) || py::isinstance<py::bytes>(paths) ||
        py::hasattr(paths, "__fspath__")) {
        throw py::type_error("paths is one path; give a list of them");
    }
    std::vector<std::string> names;
    for (const py::handle item : paths) {  // absolute: a worker may have another working directory
        names.push_back(
            os.attr("fsencode")(path.attr("abspath")(os.attr("fspath")(item))).cast<std::string>());
    }
    if (names.empty()) throw py::value_error("paths is empty; give at least one database");
    constexpr int64_t kMostThreads = 1024;
    if (threads < 0 || threads > kMostThreads)
        throw py::value_error("threads must be 0 (all cores) to 1,024");
    const py::gil_scoped_release release;
    return std::make_unique<Reader>(std::move(names), std::move(bands), static_cast<int>(threads));
}

py::list paths(const Reader& reader) {
    const py::object fsdecode = py::module_::import("os").attr("fsdecode");
    py::list out;
    for (const auto& path : reader.paths()) out.append(fsdecode(py::bytes(path)));
    return out;
}

py::tuple get_state(const Reader& reader) {
    return py::make_tuple(paths(reader), reader.spellings(), reader.threads());
}

std::unique_ptr<Reader> set_state(const py::tuple& state) {
    return make(state[0], state[1].cast<Spellings>(), state[2].cast<int64_t>());
}

}  // namespace

void bind_reader(py::module_& module) {
    py::class_<Reader>(
        module, "Reader",
        "Several databases, opened read-only, as one.\n\n"
        "Safe to share between threads, to pickle, and to use after a fork. Raises ReaderError, in\n"
        "one line, for a database or entry that cannot be read.")
        .def(py::init(&make), py::arg("paths"), py::arg("bands") = Spellings{}, py::arg("threads") = 0,
             "paths: folders that hold data.mdb, or .mdb files. bands: the tensor names of each band id,\n"
             "rsdnet.bands.spellings(). threads: 0 for all cores this process may use.")
        .def_property_readonly("paths", &paths, "The databases' paths, absolute.")
        .def_property_readonly("threads", &Reader::threads, "Threads that read.")
        .def(
            "__len__", [](const Reader& reader) { return reader.size(); },
            "Entries in all databases together.")
        .def("keys", &keys, py::arg("database") = 0,
             "All keys of a database, in byte order. database: the index of one of paths.")
        .def("contains", &contains, py::arg("keys"), py::arg("database") = 0,
             "For each key, whether the database has it: bool (N,).")
        .def("describe", &describe, py::arg("key"), py::arg("database") = 0,
             "{tensor name: (type, shape)} of one entry, from its header.")
        .def(py::pickle(&get_state, &set_state));
}

}  // namespace rsdnet
