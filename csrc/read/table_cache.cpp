// Table::lay_out, load and keep: all samples in one block of memory.
#include <algorithm>
#include <array>
#include <unordered_map>
#include <utility>

#include "error.hpp"
#include "read/table.hpp"

namespace rsdnet {

namespace {

// The bands of a patch, one after the other, in the order of the pool; and the bytes they take.
uint64_t pack(std::vector<Image>& images) {
    uint64_t bytes = 0;
    for (Image& image : images) image.at = bytes, bytes += aligned(image.bytes);
    return bytes;
}

// The index of a shape in `shapes`, which gets it if it is new.
uint64_t shape_index(std::vector<std::vector<Image>>& shapes, std::vector<Image> shape) {
    const auto same = std::find(shapes.begin(), shapes.end(), shape);
    const auto index = static_cast<uint64_t>(same - shapes.begin());
    if (same == shapes.end()) shapes.push_back(std::move(shape));
    return index;
}

}  // namespace

uint64_t Table::lay_out() {
    if (kept_ || arena_bytes_ != 0) return arena_bytes_;
    struct Shape {
        uint64_t index, bytes;
    };
    std::array<std::unordered_map<uint64_t, Shape>, 2> known;  // by layout
    std::array<std::vector<std::vector<Image>>, 2> shapes;
    std::vector<std::array<ValueRef, 2>> refs(size(), {0, 0});
    uint64_t bytes = 0;
    Scratch scratch;
    for (uint32_t sample = 0; sample < size(); ++sample) {
        for (const bool sar : {false, true}) {
            if (!shows(sar)) continue;
            const uint64_t layout = layout_of(samples_[sample].refs[sar]);
            auto shape = known[sar].find(layout);
            if (layout == kOwnLayout || shape == known[sar].end()) {
                std::vector<Image> packed = images(sample, sar, scratch);
                const uint64_t taken = pack(packed), index = shape_index(shapes[sar], std::move(packed));
                if (index >= kOwnLayout) throw Error("patches of more than 65,535 shapes cannot be cached");
                shape = known[sar].insert_or_assign(layout, Shape{index, taken}).first;
            }
            refs[sample][sar] = bytes << 16 | shape->second.index;
            bytes += shape->second.bytes;
        }
    }
    kept_images_ = std::move(shapes);
    kept_refs_ = std::move(refs);
    return arena_bytes_ = bytes;
}

uint64_t Table::place(size_t first) {
    lay_out();
    if (first == size()) return arena_bytes_;
    const bool sar = modality_ == Modality::kSar;
    return offset_of(kept_ ? samples_[first].refs[sar] : kept_refs_[first][sar]);
}

void Table::load(uint8_t* part, size_t first, size_t count) {
    const uint64_t begin = place(first);
    reader_.pool().run(count, kSamplesAtOnce, [&](int, size_t from, size_t end) {
        Scratch scratch;
        for (size_t i = first + from; i < first + end; ++i) {
            const auto sample = static_cast<uint32_t>(i);
            for (const bool sar : {false, true}) {
                if (!shows(sar)) continue;
                const ValueRef to = kept_refs_[sample][sar];
                const auto& shape = kept_images_[sar][layout_of(to)];
                for (size_t index = 0; index < shape.size(); ++index) {
                    const Image& image = shape[index];
                    const int64_t record[kRecordFields] = {
                        static_cast<int64_t>(offset_of(to) - begin + image.at), image.dtype, image.height,
                        image.width, pools_[sar][index]};
                    copy(sample, record, 1, part, scratch);
                }
            }
        }
    });
    check_unchanged();
}

void Table::keep(const uint8_t* arena) {
    if (kept_) throw Error("the samples are in a cache already");
    lay_out();
    for (size_t i = 0; i < size(); ++i) std::copy_n(kept_refs_[i].begin(), 2, samples_[i].refs);
    kept_refs_ = {};
    images_ = std::move(kept_images_);
    own_bytes_ = {};
    arena_ = arena;
    kept_ = true;
}

}  // namespace rsdnet
