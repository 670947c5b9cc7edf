// rsdnet._reader.Survey, and what measures a machine: extents, spread, copy_blocks.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <functional>
#include <mutex>
#include <optional>

#include "python/bindings.hpp"
#include "python/convert.hpp"
#include "error.hpp"
#include "read/meter.hpp"
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
    const int64_t index = database_index(reader, database);
    const Session session(reader);
    auto bound = std::make_unique<Bound>(reader, index, whole);
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
    for (size_t i = 0; i < found.size(); ++i)
        out[i] = py::make_tuple(text(found[i].entry.name()), found[i].reason);
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

py::list spread(Reader& self, int64_t count, int64_t database) {
    Reader& reader = here(self);
    const auto index = static_cast<size_t>(database_index(reader, database));
    if (count < 1) throw py::value_error("count must be at least 1");
    std::vector<Item> items;
    {
        const Session session(reader);
        items = reader.database(index).items();
        reader.check_unchanged();
    }
    const size_t taken = std::min(items.size(), static_cast<size_t>(count));
    py::list out(taken);
    for (size_t i = 0; i < taken; ++i) out[i] = text(items[i * items.size() / taken].name());
    return out;
}

py::array_t<int64_t> extents(Reader& self, const py::object& names, int64_t database) {
    Reader& reader = here(self);
    const int64_t index = database_index(reader, database);
    const Keys keys(names);
    py::array_t<int64_t> result({static_cast<py::ssize_t>(keys.size()), py::ssize_t{2}});
    int64_t* out = result.mutable_data();
    const Session session(reader);
    for (size_t i = 0; i < keys.size(); ++i, out += 2) {
        Entry entry{};
        if (!reader.find(keys[i], index, &entry))
            throw Error(reader.paths()[static_cast<size_t>(index)] + ": has no entry " + quoted(keys[i]));
        out[0] = static_cast<int64_t>(entry.offset);
        out[1] = entry.bytes;
    }
    reader.check_unchanged();
    return result;
}

py::tuple copy(const py::buffer& source_, const py::buffer& blocks_, const py::buffer& out_, int64_t threads,
               double seconds) {
    const Buffer source(source_, "source"), blocks(blocks_, "blocks"), out(out_, "out", true);
    source.need<uint8_t>();
    blocks.need<int64_t>();
    out.need<uint8_t>();
    if (blocks.info.ndim != 2 || blocks.info.shape[1] != 2 || blocks.info.shape[0] < 1)
        throw py::value_error("blocks has shape " + blocks.shape() + "; expected (N, 2)");
    if (threads < 1 || threads > 1024) throw py::value_error("threads must be 1 to 1,024");
    const auto count = static_cast<size_t>(blocks.info.shape[0]);
    const auto size = static_cast<uint64_t>(source.info.size), room = static_cast<uint64_t>(out.info.size);
    const auto* const all = reinterpret_cast<const Block*>(blocks.data<int64_t>());
    for (size_t i = 0; i < count; ++i) {
        if (all[i].offset > size || all[i].bytes > size - all[i].offset)
            throw py::value_error("block " + std::to_string(i) + " lies outside the source");
        if (all[i].bytes > room / static_cast<uint64_t>(threads))
            throw py::value_error("block " + std::to_string(i) + " is larger than a thread's part of out");
    }
    Copied copied{};
    {
        const py::gil_scoped_release release;
        copied = copy_blocks(source.data<uint8_t>(), all, count, out.data<uint8_t>(), room,
                             static_cast<int>(threads), seconds);
    }
    return py::make_tuple(copied.bytes, copied.seconds);
}

}  // namespace

void bind_survey(py::module_& module) {
    py::class_<Bound>(module, "Survey",
                      "A pass over every entry, in the order in which they lie on disk.\n\n"
                      "Headers are checked against the values' real sizes; with `whole` every byte is read.")
        .def(py::init(&make), py::arg("reader"), py::arg("database") = py::none(), py::arg("whole") = false,
             py::keep_alive<1, 2>(),
             "database: the index of one of reader.paths; without it all. Ends as the reader does: "
             "ReaderError\n"
             "where a database was truncated, deleted or written to.")
        .def("advance", &advance, py::arg("entries"),
             "Looks at so many entries more, on all threads of the reader without the GIL. Returns how many "
             "are done.")
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
    module.def("spread", &spread, py::arg("reader"), py::arg("count"), py::arg("database") = 0,
               "At most `count` keys of a database, evenly spread over it, in byte order.");
    module.def("extents", &extents, py::arg("reader"), py::arg("keys"), py::arg("database") = 0,
               "Where the values of these keys lie in the database's file: int64 (N, 2), first byte and how "
               "many.");
    module.def(
        "copy_blocks", &copy, py::arg("source"), py::arg("blocks"), py::arg("out"), py::arg("threads"),
        py::arg("seconds"),
        "Copies blocks with memcpy, over and over for `seconds`: (bytes copied, seconds taken).\n\n"
        "source: uint8 (N,). blocks: int64 (K, 2), first byte and how many. out: uint8, writable; each "
        "thread\n"
        "writes to a part of its own. Runs without the GIL.");
}

}  // namespace rsdnet
