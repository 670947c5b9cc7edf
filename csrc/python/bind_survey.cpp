// rsdnet._reader.Survey, and two functions to measure a machine: extents, copy_blocks.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstring>
#include <functional>
#include <mutex>
#include <optional>
#include <stdexcept>

#include "error.hpp"
#include "python/bindings.hpp"
#include "python/convert.hpp"
#include "python/session.hpp"
#include "read/survey.hpp"

namespace py = pybind11;

namespace rsdnet {
namespace {

// A survey and the reader it belongs to.
struct Bound {
    Bound(Reader& reader_, int64_t database, bool whole)
        : reader(reader_), survey(reader_, database, whole) {}
    Reader& reader;
    Survey survey;
};

// What a survey found so far. It may go on in another thread: so its lock is taken, as advance() does.
template <typename Ask>
auto ask(Bound& self, Ask&& question) {
    const py::gil_scoped_release release;
    const std::lock_guard<std::mutex> lock(self.reader.mutex());
    return question(self.survey);
}

std::unique_ptr<Bound> make(Reader& reader, std::optional<int64_t> database, bool whole) {
    if (database) database_of(reader, *database);
    const Session session(reader);
    auto bound = std::make_unique<Bound>(reader, database.value_or(-1), whole);
    reader.check_unchanged();
    return bound;
}

uint64_t advance(Bound& self, int64_t entries) {
    if (entries < 0) throw py::value_error("entries is negative");
    Reader& reader = here(self.reader);
    const Session session(reader);
    return self.survey.advance(reader, static_cast<uint64_t>(entries));
}

py::list damaged(Bound& self) {
    const auto found = ask(self, [](const Survey& survey) { return survey.damaged(); });
    py::list out(found.size());
    for (size_t i = 0; i < found.size(); ++i) out[i] = py::make_tuple(text(found[i].key), found[i].reason);
    return out;
}

py::list schemas(Bound& self) {
    py::list out;
    for (const auto& schema : ask(self, [](const Survey& survey) { return survey.schemas(); })) {
        py::tuple columns(schema.columns.size());
        for (size_t i = 0; i < columns.size(); ++i) {
            const Survey::Column& column = schema.columns[i];
            columns[i] = py::make_tuple(text(column.name), column.dtype, py::tuple(py::cast(column.shape)));
        }
        out.append(py::make_tuple(columns, schema.entries));
    }
    return out;
}

py::array_t<int64_t> extents(Reader& self, const py::object& names, int64_t database) {
    Reader& reader = here(self);
    const Database& from = database_of(reader, database);
    const std::vector<std::string> keys = parse_keys(names);
    py::array_t<int64_t> result({static_cast<py::ssize_t>(keys.size()), py::ssize_t{2}});
    int64_t* out = result.mutable_data();
    const Session session(reader);
    for (const std::string& key : keys) {
        const Value value = find_value(from, key);
        *out++ = static_cast<int64_t>(value.offset);
        *out++ = value.bytes;
    }
    reader.check_unchanged();
    return result;
}

void copy_blocks(const py::buffer& from, const py::buffer& blocks, const py::buffer& to) {
    const Buffer source(from, "source"), list(blocks, "blocks"), out(to, "out", true);
    source.need<uint8_t>(), list.need<int64_t>(), out.need<uint8_t>();
    if (list.info.ndim != 2 || list.info.shape[1] != 3)
        throw py::value_error("blocks has shape " + list.shape() + "; expected (N, 3)");
    const py::gil_scoped_release release;
    const int64_t* const end = list.data<int64_t>() + list.info.size;
    for (const int64_t* block = list.data<int64_t>(); block != end; block += 3) {
        const int64_t bytes = block[2];
        const auto inside = [&](int64_t offset, int64_t size) {
            return offset >= 0 && bytes >= 0 && bytes <= size && offset <= size - bytes;
        };
        if (!inside(block[0], source.info.size) || !inside(block[1], out.info.size))
            throw std::out_of_range("a block lies outside source or out");
        std::memcpy(out.data<uint8_t>() + block[1], source.data<uint8_t>() + block[0],
                    static_cast<size_t>(bytes));
    }
}

}  // namespace

void bind_survey(py::module_& module) {
    py::class_<Bound>(module, "Survey",
                      "A pass over every entry, in the order in which they lie on disk.\n\n"
                      "Headers are checked against the values' real sizes; with `whole` every byte is read.")
        .def(py::init(&make), py::arg("reader"), py::arg("database") = py::none(), py::arg("whole") = false,
             py::keep_alive<1, 2>(),
             "database: the index of one of reader.paths; without it all. Ends as the reader does:\n"
             "ReaderError where a database was truncated, deleted or written to.")
        .def("advance", &advance, py::arg("entries"),
             "Looks at so many entries more, on all threads of the reader without the GIL. Returns how\n"
             "many are done.")
        .def_property_readonly(
            "total", [](Bound& self) { return ask(self, std::mem_fn(&Survey::total)); },
            "Entries to look at.")
        .def_property_readonly(
            "done", [](Bound& self) { return ask(self, std::mem_fn(&Survey::done)); }, "Entries looked at.")
        .def_property_readonly(
            "bytes", [](Bound& self) { return ask(self, std::mem_fn(&Survey::bytes)); },
            "Bytes of the values looked at.")
        .def_property_readonly(
            "payload", [](Bound& self) { return ask(self, std::mem_fn(&Survey::payload)); },
            "Bytes of the sound entries' tensors.")
        .def_property_readonly("damaged", &damaged, "[(key, reason)], sorted by key.")
        .def_property_readonly("schemas", &schemas,
                               "[(((tensor, type, shape), ...), entries)], most entries first.")
        .def_property_readonly(
            "unlisted", [](Bound& self) { return ask(self, std::mem_fn(&Survey::unlisted)); },
            "Sound entries whose schema is left out of schemas: there are too many different ones.");
    module.def("extents", &extents, py::arg("reader"), py::arg("keys"), py::arg("database") = 0,
               "Where the values of these keys lie in the database's file: int64 (N, 2), first byte and how\n"
               "many.");
    module.def("copy_blocks", &copy_blocks, py::arg("source"), py::arg("blocks"), py::arg("out"),
               "Copies blocks with memcpy, in order, without the GIL: the measure that reading is held\n"
               "against.\n\n"
               "source: uint8 (N,). blocks: int64 (K, 3), each first byte in source, first byte in out, and\n"
               "how many. out: uint8, writable. Raises IndexError for a block outside them.");
}

}  // namespace rsdnet
