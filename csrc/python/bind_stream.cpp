// rsdnet._reader.Stream: what Python sees of the stream of batches.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>

#include "error.hpp"
#include "python/bindings.hpp"
#include "python/convert.hpp"
#include "python/sample_table.hpp"
#include "python/session.hpp"
#include "read/stream.hpp"

namespace py = pybind11;

namespace rsdnet {
namespace {

// A Stream as Python holds it: with its table and the memory of its slots, which outlive its threads.
struct RunningStream {
    py::object table;
    std::vector<Buffer> buffers;
    std::unique_ptr<Stream> stream;

    RunningStream() = default;
    RunningStream(const RunningStream&) = delete;
    RunningStream& operator=(const RunningStream&) = delete;
    ~RunningStream() {
        if (stream && stream->is_forked()) stream.release();  // its threads are the parent's
        const py::gil_scoped_release release;
        stream.reset();
    }
};

Slot parse_slot(const py::tuple& parts, const StreamSpec& spec, std::vector<Buffer>& buffers) {
    if (parts.size() != 4) throw py::value_error("a slot is (data, records, samples, positions)");
    const char* const names[] = {"data", "records", "samples", "positions"};
    const size_t bands = spec.bands.empty() ? size_t{spec.views} * spec.channels : spec.bands.size();
    const uint64_t batch = spec.partition.batch;
    const uint64_t needed[] = {0, batch * bands * kRecordFields, batch, batch};
    Slot slot{};
    int64_t** const to[] = {nullptr, &slot.records, &slot.samples, &slot.positions};
    for (size_t i = 0; i < 4; ++i) {
        buffers.emplace_back(parts[i].cast<py::buffer>(), names[i], true);
        const Buffer& buffer = buffers.back();
        if (i == 0) {
            buffer.need<uint8_t>();
            slot.data = buffer.data<uint8_t>();
            slot.capacity = static_cast<uint64_t>(buffer.info.size);
            continue;
        }
        buffer.need<int64_t>();
        if (static_cast<uint64_t>(buffer.info.size) < needed[i]) {
            throw py::value_error(std::string(names[i]) + " of a slot has shape " + buffer.shape() +
                                  "; a batch needs " + std::to_string(needed[i]) + " numbers");
        }
        *to[i] = buffer.data<int64_t>();
    }
    return slot;
}

Hints parse_hints(const std::string& name) {
    if (name == "auto") return Hints::kAuto;
    if (name == "on") return Hints::kOn;
    if (name == "off") return Hints::kOff;
    throw py::value_error("hints is " + quoted(name) + "; expected 'auto', 'on' or 'off'");
}

bool parse_damaged(const std::string& name) {
    if (name == "raise") return false;
    if (name == "stand-in") return true;
    throw py::value_error("damaged is " + quoted(name) + "; expected 'raise' or 'stand-in'");
}

std::vector<uint32_t> parse_partners(const std::optional<py::buffer>& partners) {
    return partners ? parse_numbers(*partners, "partners") : std::vector<uint32_t>{};
}

uint64_t positive(const char* name, int64_t value, int64_t least = 1) {
    constexpr int64_t kMost = int64_t{1} << 48;
    if (value < least || value > kMost) {
        throw py::value_error(std::string(name) + " is " + std::to_string(value) + "; expected at least " +
                              std::to_string(least));
    }
    return static_cast<uint64_t>(value);
}

std::unique_ptr<RunningStream> make(py::object table, const py::list& slots, uint64_t seed, int64_t batch,
                                    int64_t views, int64_t channels,
                                    std::optional<std::vector<int32_t>> bands,
                                    std::optional<std::vector<uint64_t>> quotas, int64_t rank, int64_t world,
                                    bool drop_last, int64_t first, int64_t last, int64_t stride,
                                    int64_t threads, int64_t ahead, const std::string& hints,
                                    const std::string& damaged, const std::optional<py::buffer>& partners,
                                    std::vector<int32_t> ms_view, std::vector<int32_t> sar_view) {
    constexpr int64_t kMostThreads = 1024, kMostAhead = 4096, kMostBands = 1 << 16;
    if (threads < 0 || threads > kMostThreads)
        throw py::value_error("threads must be 0 (all cores) to 1,024");
    if (ahead < 0 || ahead > kMostAhead) throw py::value_error("ahead must be 0 to 4,096");
    if (views > kMostBands || channels > kMostBands)
        throw py::value_error("views and channels must be 1 to 65,536");
    if (bands && bands->empty()) throw py::value_error("bands is empty; give None to draw them");
    SampleTable& samples = table.cast<SampleTable&>();
    StreamSpec spec{
        seed,
        static_cast<uint32_t>(positive("views", views)),
        static_cast<uint32_t>(positive("channels", channels)),
        bands.value_or(std::vector<int32_t>{}),
        quotas.value_or(std::vector<uint64_t>{}),
        {positive("batch", batch), positive("rank", rank, 0), positive("world", world), drop_last},
        positive("first", first, 0),
        positive("last", last, 0),
        positive("stride", stride),
        static_cast<int>(threads),
        static_cast<size_t>(ahead),
        parse_hints(hints),
        parse_damaged(damaged),
        parse_partners(partners),
        std::move(ms_view),
        std::move(sar_view)};
    auto running = std::make_unique<RunningStream>();
    running->table = std::move(table);
    std::vector<Slot> memory;
    for (const py::handle slot : slots)
        memory.push_back(parse_slot(py::cast<py::tuple>(slot), spec, running->buffers));
    here(samples.table->reader());
    const py::gil_scoped_release release;
    if (!samples.table->is_kept()) samples.table->check_unchanged();
    running->stream = std::make_unique<Stream>(*samples.table, std::move(spec), std::move(memory));
    return running;
}

py::object next(RunningStream& self) {
    constexpr std::chrono::milliseconds kPatience{100};  // then look for signals
    for (;;) {
        Ready ready{};
        Stream::Next what{};
        {
            const py::gil_scoped_release release;
            what = self.stream->next(kPatience, &ready);
        }
        if (what == Stream::Next::kEnd) return py::none();
        if (what == Stream::Next::kBatch)
            return py::make_tuple(ready.slot, ready.count, ready.bytes, ready.epoch, ready.step);
        if (PyErr_CheckSignals() != 0) throw py::error_already_set();
    }
}

py::dict stats(const RunningStream& self) {
    const StreamStats stats = self.stream->stats();
    py::dict out;
    out["samples"] = stats.samples;
    out["bytes"] = stats.bytes;
    out["seconds"] = stats.seconds;
    out["waited"] = stats.waited;
    out["ready"] = stats.ready;
    out["planned"] = stats.planned;
    out["threads"] = stats.threads;
    out["idle"] = stats.idle;
    out["left_out"] = stats.left_out;
    out["hints"] = stats.hints;
    out["hinted"] = stats.hinted;
    return out;
}

}  // namespace

void bind_stream(py::module_& module) {
    py::class_<RunningStream>(
        module, "Stream",
        "Batches of raw bands, read ahead by C++ threads into slots that the caller made.\n\n"
        "For one consumer at a time. Raises ReaderError with database, key and reason.")
        .def(py::init(&make), py::arg("table"), py::arg("slots"), py::kw_only(), py::arg("seed"),
             py::arg("batch"), py::arg("views") = 2, py::arg("channels") = 1, py::arg("bands") = py::none(),
             py::arg("quotas") = py::none(), py::arg("rank") = 0, py::arg("world") = 1,
             py::arg("drop_last") = true, py::arg("first") = 0, py::arg("last"), py::arg("stride") = 1,
             py::arg("threads") = 0, py::arg("ahead") = 2, py::arg("hints") = "auto",
             py::arg("damaged") = "raise", py::arg("partners") = py::none(),
             py::arg("ms_view") = std::vector<int32_t>{}, py::arg("sar_view") = std::vector<int32_t>{},
             "slots: (data uint8 (M,), records int64 (batch, V, C, 5), samples int64 (batch,), positions\n"
             "int64 (batch,)), writable. bands: None to draw V = views of C = channels bands\n"
             "(rsdnet._reader.draw_bands), or band ids that are read of every sample (V = 1). quotas:\n"
             "samples of each database in an epoch; None: all, once. rank, world: this consumer's share of\n"
             "each global batch of world * batch samples. drop_last: whether an epoch's last samples are\n"
             "left when they do not fill a global batch; else they are shared out. first, last, stride:\n"
             "the steps to read; step s is of epoch s // steps_per_epoch. threads: 0 for all cores. ahead:\n"
             "batches planned before there is a slot for them. hints: tell the kernel what comes next;\n"
             "auto: where it is not in memory. damaged: an entry that cannot be read raises, or the next\n"
             "sample of its batch stands in. partners: views are of several acquisitions of a place, as\n"
             "draw_partners has it. ms_view, sar_view: as draw_bands takes them.")
        .def_property_readonly("steps_per_epoch",
                               [](const RunningStream& self) { return self.stream->steps_per_epoch(); })
        .def_property_readonly(
            "ready", [](const RunningStream& self) { return self.stream->stats().ready; },
            "Batches that wait for the consumer.")
        .def("next", &next,
             "(slot, count, bytes, epoch, step) of the next batch, or None at the end or once closed.\n"
             "Waits without the GIL.")
        .def(
            "release", [](RunningStream& self, size_t slot) { self.stream->release(slot); }, py::arg("slot"),
            "The slot may be filled again.")
        .def(
            "close", [](RunningStream& self) { self.stream->close(); },
            py::call_guard<py::gil_scoped_release>(), "Ends the threads.")
        .def("stats", &stats,
             "samples and bytes delivered; seconds since the start; waited: of them, the consumer; idle:\n"
             "of all threads; ready, planned: batches; threads; left_out: samples that others stood in\n"
             "for; hints: given now; hinted: ranges.");
}

}  // namespace rsdnet
