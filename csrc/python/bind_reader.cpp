// rsdnet._reader.Reader: what Python sees of the reader.
//
// Locks: a call takes its arguments with the GIL held, releases the GIL, then takes the reader's mutex.
// Nobody waits for the mutex with the GIL held. The table of entries grows only while both are held, so that
// a fork (which Python does with the GIL held) never copies it half written.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstring>
#include <mutex>
#include <optional>

#include "python/bindings.hpp"
#include "python/convert.hpp"
#include "error.hpp"
#include "read/reader.hpp"
#include "python/session.hpp"

namespace py = pybind11;

namespace rsdnet {
namespace {

std::string names_of(const Reader& reader) {
    std::string out;
    for (const auto& path : reader.paths()) out += (out.empty() ? "" : ", ") + path;
    return out;
}

std::vector<Entry> find_all(Reader& reader, const Keys& keys, int64_t database) {
    std::vector<Entry> found(keys.size());
    size_t absent = 0, first = 0;
    for (size_t i = 0; i < keys.size(); ++i) {
        if (reader.find(keys[i], database, &found[i])) continue;
        if (absent++ == 0) first = i;
    }
    reader.check_unchanged();
    if (absent == 0) return found;
    const std::string where = database < 0 ? names_of(reader) : reader.paths()[static_cast<size_t>(database)];
    throw Error(where + ": has no entry " + quoted(keys[first]) + " (" + std::to_string(absent) + " of " +
                std::to_string(keys.size()) + " keys are absent); does the catalog belong to this database?");
}

py::array_t<int64_t> entries(Reader& self, const py::object& names, std::optional<int64_t> database) {
    Reader& reader = here(self);
    const int64_t index = database_index(reader, database);
    const Keys keys(names);
    py::array_t<int64_t> handles(static_cast<py::ssize_t>(keys.size()));
    int64_t* const out = handles.mutable_data();
    const Session session(reader);
    const std::vector<Entry> found = find_all(reader, keys, index);
    const py::gil_scoped_acquire acquire;
    reader.register_entries(found, out);
    return handles;
}

py::array_t<bool> contains(Reader& self, const py::object& names, std::optional<int64_t> database) {
    Reader& reader = here(self);
    const int64_t index = database_index(reader, database);
    const Keys keys(names);
    py::array_t<bool> result(static_cast<py::ssize_t>(keys.size()));
    bool* const out = result.mutable_data();
    {
        const Session session(reader);
        const size_t first = index < 0 ? 0 : static_cast<size_t>(index);
        const size_t last = index < 0 ? reader.databases() : first + 1;
        for (size_t i = 0; i < keys.size(); ++i) {
            Item item{};
            out[i] = false;
            for (size_t d = first; d < last && !out[i]; ++d) out[i] = reader.database(d).find(keys[i], &item);
        }
        reader.check_unchanged();
    }
    return result;
}

py::list keys(Reader& self, std::optional<int64_t> database) {
    Reader& reader = here(self);
    const int64_t index = database_index(reader, database);
    std::vector<std::string> names;
    {
        const Session session(reader);
        for (size_t d = 0; d < reader.databases(); ++d) {
            if (index >= 0 && static_cast<size_t>(index) != d) continue;
            for (const Item& item : reader.database(d).items()) names.emplace_back(item.name());
        }
        reader.check_unchanged();
    }
    py::list out(names.size());
    for (size_t i = 0; i < names.size(); ++i) out[i] = text(names[i]);
    return out;
}

// One entry's value, copied out of the map, and its layout.
struct Value {
    std::vector<uint8_t> bytes;
    Layout layout;
    std::string where;  // for messages

    const uint8_t* payload() const { return bytes.data() + layout.prefix.size(); }
};

Value load(Reader& reader, const py::object& key) {
    const py::list one(1);
    one[0] = key;
    const Keys keys(one);
    const Session session(reader);
    const Entry entry = find_all(reader, keys, -1)[0];
    Value value;
    value.bytes.resize(entry.bytes);
    reader.database(entry.database).read(entry.offset, 0, entry.bytes, value.bytes.data());
    value.where = reader.describe_error(entry, "");
    reader.check_unchanged();
    try {
        const uint64_t prefix = prefix_bytes(value.bytes.data(), value.bytes.size());
        const std::string_view text(reinterpret_cast<const char*>(value.bytes.data()), prefix);
        value.layout = parse_layout(text, value.bytes.size() - prefix, reader.spellings());
    } catch (const Error& error) {
        throw Error(value.where + error.what());
    }
    return value;
}

py::dict describe(Reader& self, const py::object& key) {
    const Value value = load(here(self), key);
    py::dict out;
    for (const Tensor& tensor : value.layout.tensors) {
        py::tuple shape(tensor.shape.size());
        for (size_t i = 0; i < tensor.shape.size(); ++i) shape[i] = tensor.shape[i];
        out[text(tensor.name)] = py::make_tuple(tensor.dtype->name, shape);
    }
    return out;
}

py::array to_array(const Value& value, const Tensor& tensor) {
    if (!tensor.dtype->numpy) {
        throw Error(value.where + "tensor " + quoted(tensor.name) + " is " + tensor.dtype->name +
                    ", which numpy does not have; read it with the safetensors package");
    }
    std::vector<py::ssize_t> shape;
    for (const uint64_t extent : tensor.shape) {
        if (extent > static_cast<uint64_t>(PY_SSIZE_T_MAX)) {
            throw Error(value.where + "tensor " + quoted(tensor.name) + " is too large for numpy");
        }
        shape.push_back(static_cast<py::ssize_t>(extent));
    }
    py::array array(py::dtype(tensor.dtype->numpy), shape);
    if (tensor.end > tensor.begin) {
        std::memcpy(array.mutable_data(), value.payload() + tensor.begin, tensor.end - tensor.begin);
    }
    return array;
}

// The tensor that a user means by `name`: spelled so, or another spelling of the same band.
const Tensor* find_tensor(const Reader& reader, const Layout& layout, const std::string& name) {
    if (const Tensor* tensor = layout.find(name)) return tensor;
    for (size_t band = 0; band < reader.spellings().size(); ++band) {
        for (const std::string& spelling : reader.spellings()[band]) {
            if (spelling == name && layout.by_band[band] >= 0) {
                return &layout.tensors[static_cast<size_t>(layout.by_band[band])];
            }
        }
    }
    return nullptr;
}

py::dict read_entry(Reader& self, const py::object& key, const py::object& bands) {
    Reader& reader = here(self);
    const Value value = load(reader, key);
    py::dict out;
    if (bands.is_none()) {
        for (const Tensor& tensor : value.layout.tensors) out[text(tensor.name)] = to_array(value, tensor);
        return out;
    }
    const Keys names(bands);
    for (size_t i = 0; i < names.size(); ++i) {
        const Tensor* tensor = find_tensor(reader, value.layout, names[i]);
        if (!tensor) {
            throw Error(value.where + "it has no band " + printable(names[i]) + " (it has " +
                        list_tensors(value.layout) + ")");
        }
        out[text(names[i])] = to_array(value, *tensor);
    }
    return out;
}

// Entries and bands of a batch, same shape. Bands as int64.
struct Batch {
    Batch(const py::buffer& entries_, const py::buffer& bands_)
        : entries(entries_, "entries"), bands(bands_, "bands") {
        entries.need<int64_t>();
        if (bands.info.shape != entries.info.shape) {
            throw py::value_error("bands has shape " + bands.shape() + ", entries " + entries.shape());
        }
        if (bands.is<int32_t>()) {
            const auto* const from = bands.data<int32_t>();
            wide.assign(from, from + count());
        } else {
            bands.need<int64_t>();
        }
    }
    size_t count() const { return static_cast<size_t>(entries.info.size); }
    const int64_t* entry_data() const { return entries.data<int64_t>(); }
    const int64_t* band_data() const { return wide.empty() ? bands.data<int64_t>() : wide.data(); }

    Buffer entries, bands;
    std::vector<int64_t> wide;
};

uint64_t gather(Reader& self, const py::buffer& entries, const py::buffer& bands, const py::buffer& out,
                const py::buffer& records) {
    Reader& reader = here(self);
    const Batch batch(entries, bands);
    Buffer bytes(out, "out", true), rows(records, "records", true);
    bytes.need<uint8_t>();
    rows.need<int64_t>();
    std::vector<py::ssize_t> expected = batch.entries.info.shape;
    expected.push_back(kRecordFields);
    if (rows.info.shape != expected) {
        throw py::value_error("records has shape " + rows.shape() + "; expected " + to_text(expected));
    }
    if (bytes.info.ndim != 1)
        throw py::value_error("out has shape " + bytes.shape() + "; expected one dimension");
    const Session session(reader);
    return reader.gather(batch.entry_data(), batch.band_data(), batch.count(), bytes.data<uint8_t>(),
                         static_cast<uint64_t>(bytes.info.size), rows.data<int64_t>());
}

std::vector<std::pair<size_t, std::string>> check(Reader& self, const py::buffer& entries,
                                                  const py::buffer& bands) {
    Reader& reader = here(self);
    const Batch batch(entries, bands);
    const Session session(reader);
    return reader.check(batch.entry_data(), batch.band_data(), batch.count());
}

Access parse_access(const std::string& name) {
    if (name == "map") return Access::kMap;
    if (name == "pread") return Access::kPread;
    throw py::value_error("access is " + quoted(name) + "; expected 'map' or 'pread'");
}

const char* access_name(const Reader& reader) {
    return reader.access() == Access::kMap ? "map" : "pread";
}

std::unique_ptr<Reader> make(const py::object& paths, Spellings bands, int64_t threads,
                             const std::string& access) {
    const Access how = parse_access(access);
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
    if (names.size() > UINT16_MAX) throw py::value_error("a reader takes at most 65,535 databases");
    constexpr int64_t kMostThreads = 1024;
    if (threads < 0 || threads > kMostThreads)
        throw py::value_error("threads must be 0 (all cores) to 1,024");
    const py::gil_scoped_release release;
    return std::make_unique<Reader>(std::move(names), std::move(bands), static_cast<int>(threads), how);
}

py::list paths(const Reader& reader) {
    const py::object fsdecode = py::module_::import("os").attr("fsdecode");
    py::list out;
    for (const auto& path : reader.paths()) out.append(fsdecode(py::bytes(path)));
    return out;
}

// For pickle: what __init__ takes, and the registered entries as (databases, key lengths, keys) in three byte
// strings.
py::tuple get_state(Reader& self) {
    Reader& reader = here(self);
    std::string databases, lengths, names;
    reader.check_files();
    for (const Entry& entry : reader.entries()) {
        databases.append(reinterpret_cast<const char*>(&entry.database), sizeof(entry.database));
        lengths.append(reinterpret_cast<const char*>(&entry.key_bytes), sizeof(entry.key_bytes));
        names.append(entry.key, entry.key_bytes);
    }
    reader.check_unchanged();
    return py::make_tuple(paths(reader), reader.spellings(), reader.threads(), access_name(reader),
                          py::bytes(databases), py::bytes(lengths), py::bytes(names));
}

std::unique_ptr<Reader> set_state(const py::tuple& state) {
    if (state.size() != 7) throw py::value_error("this is no pickled Reader");
    auto reader =
        make(state[0], state[1].cast<Spellings>(), state[2].cast<int64_t>(), state[3].cast<std::string>());
    const auto databases = state[4].cast<std::string>(), lengths = state[5].cast<std::string>();
    const auto names = state[6].cast<std::string>();
    const size_t count = databases.size() / sizeof(uint16_t);
    if (lengths.size() != databases.size()) throw py::value_error("this is no pickled Reader");
    std::vector<Entry> found(count);
    size_t position = 0;
    for (size_t i = 0; i < count; ++i) {
        uint16_t database = 0, length = 0;
        std::memcpy(&database, databases.data() + i * sizeof(database), sizeof(database));
        std::memcpy(&length, lengths.data() + i * sizeof(length), sizeof(length));
        if (length > names.size() - position || database >= reader->databases()) {
            throw py::value_error("this is no pickled Reader");
        }
        const std::string_view key = std::string_view(names).substr(position, length);
        if (!reader->find(key, database, &found[i])) {
            throw Error(reader->database(database).path() + ": has lost its entry " + quoted(key) +
                        "; make the reader anew");
        }
        position += length;
    }
    std::vector<int64_t> handles(count);
    reader->register_entries(found, handles.data());
    return reader;
}

}  // namespace

void bind_reader(py::module_& module) {
    py::class_<Reader>(module, "Reader",
                       "Several databases, opened read-only, as one.\n\n"
                       "Safe to share between threads, to pickle, and to use after a fork.\n"
                       "Raises ReaderError, in one line, for a database or entry that cannot be read.")
        .def(py::init(&make), py::arg("paths"), py::arg("bands") = Spellings{}, py::arg("threads") = 0,
             py::arg("access") = "map",
             "paths: folders that hold data.mdb, or .mdb files. bands: per band id, the tensor names that "
             "mean it,\n"
             "rsdnet.bands.spellings(). threads: of gather and check; 0 for all cores this process may use.\n"
             "access: 'map', or 'pread' for network file systems: values are read, never mapped.")
        .def_property_readonly("access", &access_name, "'map' or 'pread'.")
        .def_property_readonly("paths", &paths, "The databases' paths, absolute.")
        .def_property_readonly("threads", &Reader::threads, "Threads that gather and check use.")
        .def(
            "__len__", [](const Reader& reader) { return reader.size(); },
            "Entries in all databases together.")
        .def("keys", &keys, py::arg("database") = py::none(),
             "All keys, database after database, each in byte order. database: the index of one of paths.")
        .def("contains", &contains, py::arg("keys"), py::arg("database") = py::none(),
             "For each key, whether it is there: bool (N,).")
        .def("entries", &entries, py::arg("keys"), py::arg("database") = py::none(),
             "Handles of the entries with these keys, int64 (N,), for gather; the same key gives the same "
             "handle.\n"
             "database: look in this one of paths only; without it in all, and a key in two of them is an "
             "error.\n"
             "Raises ReaderError that names the first absent key and says how many are absent.")
        .def("describe", &describe, py::arg("key"),
             "{tensor name: (type, shape)} of one entry, from its header.")
        .def("read", &read_entry, py::arg("key"), py::arg("bands") = py::none(),
             "{name: array} of one entry, copied; all its tensors, or those of these names (any spelling of "
             "a band).")
        .def("check", &check, py::arg("entries"), py::arg("bands"),
             "[(position, reason)] of the pairs (entries[i], bands[i]) that gather could not read, by flat "
             "position.\n"
             "entries: int64, any shape. bands: band ids, int32 or int64, same shape. Reads headers only.")
        .def("gather", &gather, py::arg("entries"), py::arg("bands"), py::arg("out"), py::arg("records"),
             "Copies one band an item, as it lies on disk, one after the other into `out`.\n\n"
             "entries: int64, any shape, such as (B, V, C). bands: band ids, int32 or int64, same shape.\n"
             "out: uint8 (N,), writable; bands start at multiples of 16 bytes.\n"
             "records: int64, that shape + (5,), writable; filled with byte offset, type code (0 uint8, 1 "
             "int16,\n"
             "2 uint16, 3 float16, 4 float32), height, width, band id.\n"
             "Returns the bytes that the bands take; where that is more than `out` has, it copies nothing: "
             "call "
             "again\n"
             "with a larger one. Runs on all threads without the GIL.\n"
             "Raises ReaderError with database, key and reason.")
        .def(py::pickle(&get_state, &set_state));
}

}  // namespace rsdnet
