// rsdnet._reader.Table, .permute and .order: what Python sees of the samples and their order.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "error.hpp"
#include "python/bindings.hpp"
#include "python/convert.hpp"
#include "python/sample_table.hpp"
#include "python/session.hpp"
#include "sampling/order.hpp"
#include "sampling/permutation.hpp"

namespace py = pybind11;

namespace rsdnet {
namespace {

std::unique_ptr<SampleTable> make(py::object reader, const std::string& modality,
                                  std::vector<int32_t> ms_pool, std::vector<int32_t> sar_pool) {
    auto made = std::make_unique<SampleTable>();
    made->table = std::make_unique<Table>(reader.cast<Reader&>(), parse_modality(modality),
                                          std::move(ms_pool), std::move(sar_pool));
    made->reader = std::move(reader);
    return made;
}

Table::Keys parse_column(const py::object& column) {
    Table::Keys keys;
    if (column.is_none()) return keys;
    for (const py::handle key : column) {
        keys.push_back(key.is_none() ? std::nullopt : std::optional(encode(key, keys.size())));
    }
    return keys;
}

Table::Faults add(SampleTable& self, size_t database, const py::buffer& rows, const py::object& ms,
                  const py::object& sar) {
    Reader& reader = here(self.table->reader());
    database_of(reader, static_cast<int64_t>(database));
    const Buffer numbers(rows, "rows");
    numbers.need<int64_t>();
    const Table::Keys ms_keys = parse_column(ms), sar_keys = parse_column(sar);
    const auto count = static_cast<size_t>(numbers.info.size);
    const Modality modality = self.table->modality();
    if ((modality != Modality::kSar && ms_keys.size() != count) ||
        (modality != Modality::kMs && sar_keys.size() != count)) {
        throw py::value_error("ms and sar must be as long as rows (" + std::to_string(count) + ")");
    }
    const Session session(reader);
    return self.table->add(database, numbers.data<int64_t>(), count, ms_keys, sar_keys);
}

py::array_t<int64_t> rows(const SampleTable& self) {
    py::array_t<int64_t> out(static_cast<py::ssize_t>(self.table->size()));
    for (uint32_t i = 0; i < self.table->size(); ++i) out.mutable_data()[i] = self.table->row(i);
    return out;
}

uint64_t gather(SampleTable& self, const py::buffer& positions, const py::buffer& bands,
                const py::buffer& out, const py::buffer& records) {
    Reader& reader = here(self.table->reader());
    const Buffer samples(positions, "positions"), ids(bands, "bands");
    Buffer bytes(out, "out", true), rows(records, "records", true);
    samples.need<int64_t>(), ids.need<int32_t>(), bytes.need<uint8_t>(), rows.need<int64_t>();
    if (samples.info.ndim != 1 || ids.info.ndim < 1 || ids.info.shape[0] != samples.info.shape[0]) {
        throw py::value_error("bands has shape " + ids.shape() + ", positions " + samples.shape());
    }
    std::vector<py::ssize_t> expected = ids.info.shape;
    expected.push_back(kRecordFields);
    if (rows.info.shape != expected) {
        throw py::value_error("records has shape " + rows.shape() + "; expected " + to_text(expected));
    }
    if (bytes.info.ndim != 1)
        throw py::value_error("out has shape " + bytes.shape() + "; expected one dimension");
    const auto count = static_cast<size_t>(samples.info.size);
    const size_t each = count ? static_cast<size_t>(ids.info.size) / count : 0;
    const Session session(reader, !self.table->is_kept());
    return self.table->gather(samples.data<int64_t>(), count, ids.data<int32_t>(), each,
                              bytes.data<uint8_t>(), static_cast<uint64_t>(bytes.info.size),
                              rows.data<int64_t>());
}

void need_arena(const SampleTable& self, const Buffer& arena) {
    arena.need<uint8_t>();
    const uint64_t bytes = self.table->lay_out();
    if (static_cast<uint64_t>(arena.info.size) < bytes) {
        throw py::value_error("arena has " + std::to_string(arena.info.size) + " bytes; the samples need " +
                              std::to_string(bytes));
    }
}

void load(SampleTable& self, const py::buffer& part, size_t first, size_t count) {
    Reader& reader = here(self.table->reader());
    const Buffer block(part, "part", true);
    block.need<uint8_t>();
    if (first > self.table->size() || count > self.table->size() - first) {
        throw py::index_error("the table has " + std::to_string(self.table->size()) + " samples");
    }
    const uint64_t bytes = self.table->place(first + count) - self.table->place(first);
    if (static_cast<uint64_t>(block.info.size) < bytes) {
        throw py::value_error("part has " + std::to_string(block.info.size) + " bytes; these samples need " +
                              std::to_string(bytes));
    }
    const Session session(reader);
    self.table->load(block.data<uint8_t>(), first, count);
}

uint64_t place(SampleTable& self, size_t first) {
    if (first > self.table->size()) {
        throw py::index_error("the table has " + std::to_string(self.table->size()) + " samples");
    }
    return self.table->place(first);
}

void keep(SampleTable& self, const py::buffer& arena) {
    Buffer block(arena, "arena");
    need_arena(self, block);
    self.table->keep(block.data<const uint8_t>());
    self.arena.emplace(std::move(block));
}

// What __init__ takes, then what add() takes for each database: the process that unpickles opens and checks
// anew.
py::tuple get_state(SampleTable& self) {
    const Table& table = *self.table;
    if (table.is_kept())
        throw Error("a Table whose samples are in a cache cannot be pickled; pickle it before");
    const char* const names[] = {"ms+sar", "ms", "sar"};
    py::list parts;
    const py::array_t<int64_t> all = rows(self);
    size_t first = 0;
    for (size_t database = 0; database < table.counts().size(); ++database) {
        const size_t count = table.counts()[database];
        std::pair<Table::Keys, Table::Keys> keys;
        {
            const Session session(here(table.reader()));
            keys = table.keys(database);
        }
        py::list columns[2];
        for (const bool sar : {false, true})
            for (const auto& key : sar ? keys.second : keys.first) columns[sar].append(py::bytes(*key));
        parts.append(py::make_tuple(all[py::slice(first, first + count, 1)], columns[0], columns[1]));
        first += count;
    }
    return py::make_tuple(self.reader, names[static_cast<int>(table.modality())], table.pool(false),
                          table.pool(true), parts);
}

std::unique_ptr<SampleTable> set_state(const py::tuple& state) {
    using Pool = std::vector<int32_t>;
    auto made = make(state[0], state[1].cast<std::string>(), state[2].cast<Pool>(), state[3].cast<Pool>());
    size_t database = 0;
    for (const py::handle part : state[4]) {
        const auto columns = part.cast<py::tuple>();
        const auto faults = add(*made, database++, columns[0].cast<py::buffer>(), columns[1], columns[2]);
        if (!faults.empty())
            throw Error(faults[0].second + "; it could be read before: make the samples anew");
    }
    return made;
}

py::array_t<int64_t> permute(uint64_t seed, uint32_t epoch, uint32_t which, uint64_t n,
                             const py::buffer& positions) {
    const Buffer from(positions, "positions");
    from.need<int64_t>();
    if (n == 0 || n > (uint64_t{1} << 32)) throw py::value_error("n must be 1 to 2^32");
    const Permutation permutation(seed, epoch, which, n);
    py::array_t<int64_t> to(from.info.size);
    for (py::ssize_t i = 0; i < from.info.size; ++i) {
        const int64_t position = from.data<int64_t>()[i];
        if (position < 0 || static_cast<uint64_t>(position) >= n) {
            throw py::index_error("position " + std::to_string(position) + " is not below " +
                                  std::to_string(n));
        }
        to.mutable_data()[i] = static_cast<int64_t>(permutation(static_cast<uint64_t>(position)));
    }
    return to;
}

std::pair<py::array_t<int64_t>, py::array_t<int64_t>> order(uint64_t seed, uint32_t epoch,
                                                            std::vector<uint64_t> counts,
                                                            std::vector<uint64_t> quotas,
                                                            const py::buffer& positions) {
    const Buffer from(positions, "positions");
    from.need<int64_t>();
    if (counts.size() != quotas.size()) throw py::value_error("counts and quotas differ in length");
    for (size_t d = 0; d < counts.size(); ++d) {
        if (counts[d] == 0 && quotas[d] != 0) throw py::value_error("a quota of an empty database");
    }
    const Order drawn(seed, std::move(counts), std::move(quotas));
    py::array_t<int64_t> samples(from.info.size), repeats(from.info.size);
    for (py::ssize_t i = 0; i < from.info.size; ++i) {
        const int64_t position = from.data<int64_t>()[i];
        if (position < 0 || static_cast<uint64_t>(position) >= drawn.length()) {
            throw py::index_error("position " + std::to_string(position) + " is not below " +
                                  std::to_string(drawn.length()));
        }
        Due due{};
        drawn.at(epoch, static_cast<uint64_t>(position), 1, &due);
        samples.mutable_data()[i] = due.sample;
        repeats.mutable_data()[i] = due.repeat;
    }
    return {samples, repeats};
}

}  // namespace

void bind_table(py::module_& module) {
    py::class_<SampleTable>(
        module, "Table",
        "The samples that can be read: where the values of their patches lie, 24 bytes each.\n\n"
        "Not to be used by two threads at once. Pickles, until it is kept.")
        .def(py::init(&make), py::arg("reader"), py::arg("modality"), py::arg("ms_pool"), py::arg("sar_pool"),
             "modality: 'ms+sar', 'ms' or 'sar'. Pools: the band ids that a sample's patch of each sensor\n"
             "must hold.")
        .def("add", &add, py::arg("database"), py::arg("rows"), py::arg("ms"), py::arg("sar"),
             "Adds samples whose entries can be read; gives [(index, reason)] of the others.\n\n"
             "database: index of the reader's, ascending from call to call. rows: int64 (n,), the samples'\n"
             "numbers. ms, sar: keys (str, bytes or None), n each; None for a sensor that is not shown.\n"
             "Headers are checked on all threads.")
        .def("__len__", [](const SampleTable& self) { return self.table->size(); })
        .def_property_readonly("rows", &rows, "The samples' numbers, int64 (N,).")
        .def_property_readonly(
            "counts", [](const SampleTable& self) { return self.table->counts(); },
            "Samples of each database.")
        .def_property_readonly(
            "reader", [](const SampleTable& self) { return self.reader; }, "The reader of its databases.")
        .def(
            "band_bytes",
            [](const SampleTable& self, const std::string& sensor) {
                if (sensor != "ms" && sensor != "sar")
                    throw py::value_error("modality must be 'ms' or 'sar'");
                return self.table->band_bytes(sensor == "sar");
            },
            py::arg("modality"), "Bytes of the largest band of a sensor's pool, rounded up to 16.")
        .def("gather", &gather, py::arg("positions"), py::arg("bands"), py::arg("out"), py::arg("records"),
             "Copies bands of samples as they lie on disk, one after the other, into `out`.\n\n"
             "positions: int64 (B,), below len(table). bands: band ids, int32 (B, ...). out: uint8 (N,),\n"
             "writable; bands begin at multiples of 16 bytes. records: int64, bands' shape + (5,),\n"
             "writable: byte offset, type code (0 uint8, 1 int16, 2 uint16, 3 float16, 4 float32), height,\n"
             "width, band id. Returns the bytes the bands take; where that is more than `out` has, nothing\n"
             "is copied. Runs on all threads without the GIL. Raises ReaderError with database, key and\n"
             "reason.")
        .def_property_readonly(
            "arena_bytes", [](SampleTable& self) { return self.table->lay_out(); },
            "Bytes of all pool bands of all samples in one block.")
        .def("place", &place, py::arg("first"),
             "Where sample `first` begins in the block; of len(table): arena_bytes.")
        .def("load", &load, py::arg("part"), py::arg("first"), py::arg("count"),
             "Copies samples [first, first + count) to `part`, uint8: the block's bytes from place(first)\n"
             "on. On all threads.")
        .def("keep", &keep, py::arg("arena"),
             "From now on everything is read from `arena`, which load() has filled; no database is touched\n"
             "again.")
        .def(
            "device", [](SampleTable& self) { self.table->keep(nullptr); },
            "As keep, with the arena elsewhere (on a GPU): records point into it, and nothing is copied.")
        .def(py::pickle(&get_state, &set_state));
    module.def("permute", &permute, py::arg("seed"), py::arg("epoch"), py::arg("which"), py::arg("n"),
               py::arg("positions"),
               "Where a random permutation of range(n) sends positions, int64 (k,): a pure function of its\n"
               "arguments in O(1) memory. which: tells apart the permutations of one (seed, epoch).");
    module.def(
        "order", &order, py::arg("seed"), py::arg("epoch"), py::arg("counts"), py::arg("quotas"),
        py::arg("positions"),
        "The samples at positions of an epoch, and how often each came before in it: two int64 (k,).\n\n"
        "counts: samples of each database. quotas: how many of them an epoch holds.");
}

}  // namespace rsdnet
