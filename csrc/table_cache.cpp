// Table::lay_out, load and keep: all samples in one block of memory.
#include <algorithm>
#include <array>
#include <unordered_map>

#include "error.hpp"
#include "table.hpp"

namespace rsdnet {

uint64_t Table::lay_out() {
    if (kept_ || arena_bytes_ != 0) return arena_bytes_;
    std::array<std::unordered_map<uint64_t, uint64_t>, 2> shape_of;  // by layout: index into kept_images_
    Scratch scratch;
    kept_places_.assign(size(), {0, 0});
    for (uint32_t sample = 0; sample < size(); ++sample) {
        for (const bool sar : {false, true}) {
            if (!shows(sar)) continue;
            const uint64_t layout = layout_of_place(samples_[sample].places[sar]);
            auto known = shape_of[sar].find(layout);
            if (layout == kOwnLayout || known == shape_of[sar].end()) {
                std::vector<Image> shape = images(sample, sar, scratch);
                uint64_t at = 0;
                for (Image& image : shape) image.at = at, at += aligned(image.bytes);
                auto& shapes = kept_images_[sar];
                const auto same = std::find(shapes.begin(), shapes.end(), shape);
                const auto index = static_cast<uint64_t>(same - shapes.begin());
                if (same == shapes.end()) shapes.push_back(std::move(shape));
                if (index >= kOwnLayout) throw Error("patches of more than 65,535 shapes cannot be cached");
                known = shape_of[sar].insert_or_assign(layout, index).first;
            }
            kept_places_[sample][sar] = arena_bytes_ << 16 | known->second;
            const auto& shape = kept_images_[sar][known->second];
            if (!shape.empty()) arena_bytes_ += shape.back().at + aligned(shape.back().bytes);
        }
    }
    return arena_bytes_;
}

uint64_t Table::place(size_t first) {
    lay_out();
    if (first == size()) return arena_bytes_;
    const bool sar = modality_ == Modality::kSar;
    return offset_of(kept_ ? samples_[first].places[sar] : kept_places_[first][sar]);
}

void Table::load(uint8_t* part, size_t first, size_t count) {
    const uint64_t begin = place(first);
    reader_.pool().run(count, kSamplesAtOnce, [&](int, size_t from, size_t to_) {
        Scratch scratch;
        for (size_t i = first + from; i < first + to_; ++i) {
            const auto sample = static_cast<uint32_t>(i);
            for (const bool sar : {false, true}) {
                if (!shows(sar)) continue;
                const Place to = kept_places_[sample][sar];
                const auto& shape = kept_images_[sar][layout_of_place(to)];
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
    for (size_t i = 0; i < size(); ++i) std::copy_n(kept_places_[i].begin(), 2, samples_[i].places);
    kept_places_ = {};
    images_ = std::move(kept_images_);
    own_bytes_ = {};
    arena_ = arena;
    kept_ = true;
}

}  // namespace rsdnet
