// rsdnet._reader.draw_bands and .philox: what Python sees of the draws.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>

#include "error.hpp"
#include "python/bindings.hpp"
#include "python/convert.hpp"
#include "sampling/draws.hpp"
#include "sampling/philox.hpp"

namespace py = pybind11;

namespace rsdnet {
namespace {

py::array_t<int32_t> draw(uint64_t seed, int64_t epoch, const py::buffer& samples, int64_t views,
                          int64_t channels, std::vector<int32_t> ms_pool, std::vector<int32_t> sar_pool,
                          const std::string& modality, std::vector<int32_t> ms_view,
                          std::vector<int32_t> sar_view) {
    constexpr int64_t kMost = 1 << 16;
    if (views < 1 || views > kMost) throw py::value_error("views must be 1 to 65,536");
    if (channels < 1 || channels > kMost) throw py::value_error("channels must be 1 to 65,536");
    const std::vector<uint32_t> rows = parse_numbers(samples, "samples");
    const BandDraw spec{seed,
                        parse_uint32("epoch", epoch),
                        static_cast<uint32_t>(views),
                        static_cast<uint32_t>(channels),
                        std::move(ms_pool),
                        std::move(sar_pool),
                        parse_modality(modality),
                        std::move(ms_view),
                        std::move(sar_view)};
    for (const auto* view : {&spec.ms_view, &spec.sar_view}) {
        if (!view->empty() && view->size() != spec.channels)
            throw py::value_error("a view of fixed bands needs one for each channel");
    }
    if (spec.modality != Modality::kSar && spec.ms_pool.empty()) throw py::value_error("ms_pool is empty");
    if (spec.modality != Modality::kMs && spec.sar_pool.empty()) throw py::value_error("sar_pool is empty");
    py::array_t<int32_t> bands({static_cast<py::ssize_t>(rows.size()), static_cast<py::ssize_t>(views),
                                static_cast<py::ssize_t>(channels)});
    int32_t* const out = bands.mutable_data();
    {
        const py::gil_scoped_release release;
        std::vector<uint32_t> scratch;
        draw_bands(spec, rows.data(), rows.size(), out, scratch);
    }
    return bands;
}

py::array_t<int64_t> draw_partners(uint64_t seed, int64_t epoch, const py::buffer& samples,
                                   const py::buffer& positions, const py::buffer& partners, int64_t views) {
    const std::vector<uint32_t> numbers = parse_numbers(samples, "samples");
    const std::vector<uint32_t> from = parse_numbers(positions, "positions");
    const std::vector<uint32_t> next = parse_numbers(partners, "partners");
    const uint32_t round = parse_uint32("epoch", epoch), count = parse_uint32("views", views);
    if (numbers.size() != from.size()) throw py::value_error("samples and positions differ in length");
    if (!is_permutation(next)) throw py::value_error("partners must hold each of the samples once");
    py::array_t<int64_t> shown({static_cast<py::ssize_t>(from.size()), static_cast<py::ssize_t>(views)});
    int64_t* out = shown.mutable_data();
    for (size_t i = 0; i < from.size(); ++i) {
        if (from[i] >= next.size()) throw py::index_error("there is no sample " + std::to_string(from[i]));
        for (uint32_t view = 0; view < count; ++view)
            *out++ = draw_partner(next, seed, round, numbers[i], from[i], view);
    }
    return shown;
}

py::array_t<uint32_t> philox_words(const py::buffer& key, const py::buffer& counter) {
    const Buffer keys(key, "key"), counters(counter, "counter");
    keys.need<uint32_t>();
    counters.need<uint32_t>();
    if (keys.info.ndim != 1 || keys.info.size != 2) {
        throw py::value_error("key has shape " + keys.shape() + "; expected (2,)");
    }
    if (counters.info.ndim != 2 || counters.info.shape[1] != 4) {
        throw py::value_error("counter has shape " + counters.shape() + "; expected (n, 4)");
    }
    py::array_t<uint32_t> words({counters.info.shape[0], py::ssize_t{4}});
    uint32_t* out = words.mutable_data();
    const uint32_t* in = counters.data<uint32_t>();
    for (py::ssize_t i = 0; i < counters.info.shape[0]; ++i, in += 4, out += 4) {
        const PhiloxCounter drawn =
            philox({keys.data<uint32_t>()[0], keys.data<uint32_t>()[1]}, {in[0], in[1], in[2], in[3]});
        std::copy(drawn.begin(), drawn.end(), out);
    }
    return words;
}

}  // namespace

void bind_draws(py::module_& module) {
    module.def(
        "draw_bands", &draw, py::arg("seed"), py::arg("epoch"), py::arg("samples"), py::arg("views"),
        py::arg("channels"), py::arg("ms_pool"), py::arg("sar_pool"), py::arg("modality"),
        py::arg("ms_view") = std::vector<int32_t>{}, py::arg("sar_view") = std::vector<int32_t>{},
        "Band ids of each view, int32 (B, views, channels): a pure function of (seed, epoch, sample,\n"
        "view).\n\n"
        "samples: int64 (B,), rows of the catalog. ms_pool, sar_pool: band ids. modality: 'ms+sar'\n"
        "(the two sensors in random order), 'ms' or 'sar'. ms_view, sar_view: band ids that a sensor's\n"
        "views show, one a channel and in this order, instead of drawn ones. Raises ValueError for\n"
        "what is out of range.");
    module.def(
        "draw_partners", &draw_partners, py::arg("seed"), py::arg("epoch"), py::arg("samples"),
        py::arg("positions"), py::arg("partners"), py::arg("views"),
        "The samples that views show where they are of several acquisitions of a place, int64 (B, views):\n"
        "view 0 the sample itself, each other view one of the rest of its place; a pure function of\n"
        "(seed, epoch, sample, view).\n\n"
        "samples: int64 (B,), rows of the catalog. positions: int64 (B,), of these samples in the\n"
        "table. partners: int64 (N,), by position the next sample of its place, in a cycle.");
    module.def(
        "philox", &philox_words, py::arg("key"), py::arg("counter"),
        "Philox4x32-10 (Salmon et al. 2011): key uint32 (2,), counter uint32 (n, 4) to uint32 (n, 4).");
}

}  // namespace rsdnet
