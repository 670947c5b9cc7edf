// The layouts of a database's values: parsed once, then recognised by their bytes.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <unordered_map>

#include "lmdb/database.hpp"
#include "safetensors/layout.hpp"

namespace rsdnet {

// The layouts seen so far, by their prefix. Threads may share it.
class LayoutCache {
  public:
    // The layout with this prefix, or null.
    const Layout* find(std::string_view prefix) const;
    // Takes a layout and gives the one kept; null if the cache is full (then the caller keeps its own).
    const Layout* add(std::unique_ptr<Layout>& layout);

  private:
    mutable std::mutex mutex_;
    std::unordered_map<std::string_view, std::unique_ptr<Layout>> layouts_;
};

// What one thread met last: nearly always the next value has one of these layouts.
struct RecentLayouts {
    static constexpr size_t kCount = 4;
    const Layout* layouts[kCount] = {};
    size_t oldest = 0;
    std::unique_ptr<Layout> own;  // a layout that the full cache did not take
    std::string scratch;
};

// The layout of a value, its prefix compared byte for byte. Error (the reason alone) if it is no sound
// safetensors.
const Layout& layout_of(const File& file, const Value& value, const Spellings& spellings, LayoutCache& cache,
                        RecentLayouts& recent);

// The tensor that holds a band, an image that views can be made of. Error (the reason alone) if there is
// none.
const Tensor& image_of(const Layout& layout, int64_t band, const Spellings& spellings);

}  // namespace rsdnet
