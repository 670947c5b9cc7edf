#include "read/layouts.hpp"

#include <utility>

#include "error.hpp"

namespace rsdnet {
namespace {

// Databases whose values all differ in their headers must not fill the memory.
constexpr size_t kMostLayouts = 1024;

// The prefix of a value, from the file.
std::string_view read_prefix(const File& file, const Value& value, std::string& scratch) {
    uint8_t length[kLengthBytes] = {};
    if (value.bytes >= kLengthBytes) file.read(value.offset, kLengthBytes, length);
    scratch.resize(prefix_bytes(length, value.bytes));
    file.read(value.offset, scratch.size(), reinterpret_cast<uint8_t*>(scratch.data()));
    if (scratch.compare(0, kLengthBytes, reinterpret_cast<const char*>(length), kLengthBytes) != 0) {
        throw Error("it changed while it was read");
    }
    return scratch;
}

}  // namespace

const Layout* LayoutCache::find(std::string_view prefix) const {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = layouts_.find(prefix);
    return found == layouts_.end() ? nullptr : found->second.get();
}

const Layout* LayoutCache::add(std::unique_ptr<Layout>& layout) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (layouts_.size() >= kMostLayouts) return nullptr;
    const std::string_view prefix = layout->prefix;  // lives inside the layout, whose address does not change
    return layouts_.try_emplace(prefix, std::move(layout)).first->second.get();
}

const Layout& layout_of(const File& file, const Value& value, const Spellings& spellings, LayoutCache& cache,
                        RecentLayouts& recent) {
    for (const Layout* layout : recent.layouts) {
        if (layout && layout->value_bytes() == value.bytes &&
            file.equals(value.offset, layout->prefix, recent.scratch)) {
            return *layout;
        }
    }
    const std::string_view prefix = read_prefix(file, value, recent.scratch);
    const uint64_t payload = value.bytes - prefix.size();
    const Layout* layout = cache.find(prefix);
    if (!layout) {
        auto parsed = std::make_unique<Layout>(parse_layout(prefix, payload, spellings));
        layout = cache.add(parsed);
        if (!layout) {
            recent.own = std::move(parsed);
            return *recent.own;
        }
    }
    if (layout->payload != payload) {  // the same header in front of fewer or more bytes
        throw Error("its payload has " + std::to_string(payload) + " bytes; its header describes " +
                    std::to_string(layout->payload));
    }
    recent.layouts[recent.oldest] = layout;
    recent.oldest = (recent.oldest + 1) % RecentLayouts::kCount;
    return *layout;
}

const Tensor& image_of(const Layout& layout, int64_t band, const Spellings& spellings) {
    if (band < 0 || static_cast<uint64_t>(band) >= spellings.size()) {
        throw Error("band id " + std::to_string(band) + " is out of range (the reader knows " +
                    std::to_string(spellings.size()) + " bands)");
    }
    const int32_t index = layout.by_band[static_cast<size_t>(band)];
    if (index < 0) {
        const auto& names = spellings[static_cast<size_t>(band)];
        throw Error("it has no band " + (names.empty() ? std::to_string(band) : printable(names[0])) +
                    " (it has " + list_tensors(layout) + ")");
    }
    const Tensor& tensor = layout.tensors[static_cast<size_t>(index)];
    const std::string_view name = tensor.name;
    if (tensor.dtype->gather < 0) {
        throw Error("band " + printable(name) + " is " + tensor.dtype->name +
                    "; views are made of uint8, int16, uint16, float16 and float32");
    }
    if (tensor.shape.size() != 2 || tensor.begin == tensor.end) {
        throw Error("band " + printable(name) + " is no image of (height, width)");
    }
    return tensor;
}

}  // namespace rsdnet
