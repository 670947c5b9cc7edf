#include "tests/databases.hpp"

#include <unistd.h>

#include <cstring>
#include <fstream>

#include "tests/check.hpp"

namespace rsdnet::test {
namespace {

constexpr uint16_t kBranch = 1, kLeaf = 2, kOverflow = 4, kMeta = 8, kBigData = 1;
constexpr size_t kPageHeader = 16, kNodeHeader = 8;

template <typename T>
void put(std::string& page, size_t offset, T value) {
    std::memcpy(page.data() + offset, &value, sizeof(value));
}

// A node before it has a place: its header's three words, its key and its data.
struct Node {
    uint32_t low;  // bytes of the value, or the child's page
    uint16_t flags;
    std::string key, data;

    size_t bytes() const { return (kNodeHeader + key.size() + data.size() + 1) / 2 * 2; }
};

// Pages of a tree, from page 2 on.
class TreeWriter {
  public:
    explicit TreeWriter(const Paging& paging) : paging_(paging), file_(2 * size_t{paging.page_size}, '\0') {}

    std::string write(const Entries& entries) {
        std::vector<Node> nodes = leaf_nodes(entries);
        uint16_t depth = 0;
        while (depth == 0 || nodes.size() > 1) {
            const size_t most = depth == 0 ? paging_.leaf_nodes : paging_.branch_nodes;
            nodes = level(nodes, depth == 0 ? kLeaf : kBranch, most);
            ++depth;
        }
        const uint64_t root = entries.empty() ? ~uint64_t{0} : nodes[0].low;
        write_meta(paging_.transaction, root, entries.empty() ? 0 : depth, entries.size());
        write_meta(paging_.transaction - 1, ~uint64_t{0}, 0, 0);
        return file_;
    }

  private:
    uint32_t next_page() const { return static_cast<uint32_t>(file_.size() / paging_.page_size); }

    std::vector<Node> leaf_nodes(const Entries& entries) {
        const size_t longest = ((paging_.page_size - kPageHeader) / 2 & ~size_t{1}) - 2;  // me_nodemax
        std::vector<Node> nodes;
        for (const auto& [key, value] : entries) {
            const auto bytes = static_cast<uint32_t>(value.size());
            if (kNodeHeader + key.size() + value.size() <= longest) {
                nodes.push_back({bytes, 0, key, value});
            } else {
                nodes.push_back({bytes, kBigData, key, std::string(8, '\0')});
                put<uint64_t>(nodes.back().data, 0, overflow(value));
            }
        }
        return nodes;
    }

    uint64_t overflow(const std::string& value) {
        const uint64_t number = next_page();
        const size_t size = paging_.page_size, pages = (kPageHeader + value.size() + size - 1) / size;
        std::string page(pages * size, '\0');
        put<uint64_t>(page, 0, number);
        put<uint16_t>(page, 10, kOverflow);
        put<uint32_t>(page, 12, static_cast<uint32_t>(pages));
        std::memcpy(page.data() + kPageHeader, value.data(), value.size());
        file_ += page;
        return number;
    }

    // Packs nodes into pages; gives the nodes of the level above.
    std::vector<Node> level(const std::vector<Node>& nodes, uint16_t kind, size_t most) {
        std::vector<std::vector<Node>> pages(1);
        size_t room = paging_.page_size - kPageHeader;
        for (const Node& node : nodes) {
            if (pages.back().size() == most || node.bytes() + 2 > room) {
                pages.emplace_back();
                room = paging_.page_size - kPageHeader;
            }
            room -= node.bytes() + 2;
            pages.back().push_back(node);
        }
        if (kind == kBranch && pages.back().size() == 1 && pages.size() > 1) {  // a branch has two children
            auto& before = pages[pages.size() - 2];
            before.push_back(pages.back()[0]);
            pages.pop_back();
            if (before.size() > 3) {
                std::vector<Node> last(before.end() - 2, before.end());
                before.resize(before.size() - 2);
                pages.push_back(std::move(last));
            }
        }
        std::vector<Node> parents;
        for (auto& page : pages)
            parents.push_back({write_page(page, kind), 0, page.empty() ? "" : page[0].key, ""});
        return parents;
    }

    uint32_t write_page(std::vector<Node>& nodes, uint16_t kind) {
        const uint32_t number = next_page();
        std::string page(paging_.page_size, '\0');
        size_t upper = page.size();
        for (size_t i = 0; i < nodes.size(); ++i) {
            Node node = nodes[i];
            if (kind == kBranch && i == 0) node.key.clear();  // as LMDB: the first key is never compared
            upper -= node.bytes();
            put<uint16_t>(page, kPageHeader + 2 * i, static_cast<uint16_t>(upper));
            put<uint32_t>(page, upper, node.low);
            put<uint16_t>(page, upper + 4, node.flags);
            put<uint16_t>(page, upper + 6, static_cast<uint16_t>(node.key.size()));
            std::memcpy(page.data() + upper + kNodeHeader, node.key.data(), node.key.size());
            std::memcpy(page.data() + upper + kNodeHeader + node.key.size(), node.data.data(),
                        node.data.size());
        }
        put<uint64_t>(page, 0, number);
        put<uint16_t>(page, 10, kind);
        put<uint16_t>(page, 12, static_cast<uint16_t>(kPageHeader + 2 * nodes.size()));
        put<uint16_t>(page, 14, static_cast<uint16_t>(upper));
        file_ += page;
        return number;
    }

    void write_meta(uint64_t transaction, uint64_t root, uint16_t depth, uint64_t entries) {
        const uint64_t number = transaction & 1;
        const size_t page = number * paging_.page_size, meta = page + kPageHeader;
        put<uint64_t>(file_, page, number);
        put<uint16_t>(file_, page + 10, kMeta);
        put<uint32_t>(file_, meta, 0xBEEFC0DE);
        put<uint32_t>(file_, meta + 4, 1);
        put<uint64_t>(file_, meta + 16, file_.size());  // mm_mapsize
        put<uint32_t>(file_, meta + 24, paging_.page_size);
        put<uint64_t>(file_, meta + 24 + 40, ~uint64_t{0});  // the free list has no root
        put<uint16_t>(file_, meta + 72 + 6, depth);
        put<uint64_t>(file_, meta + 72 + 32, entries);
        put<uint64_t>(file_, meta + 72 + 40, root);
        put<uint64_t>(file_, meta + 120, next_page() - 1);
        put<uint64_t>(file_, meta + 128, transaction);
    }

    const Paging& paging_;
    std::string file_;
};

template <typename T>
std::string image(uint64_t patch, int32_t band, uint64_t side) {
    std::string bytes(side * side * sizeof(T), '\0');
    for (uint64_t i = 0; i < side * side; ++i) {
        put<T>(bytes, i * sizeof(T), static_cast<T>(pixel(patch, static_cast<uint64_t>(band), i)));
    }
    return bytes;
}

}  // namespace

const Spellings& spellings() {
    static const Spellings all = {{"B01", "B1"}, {"B02", "B2"}, {"B03", "B3"}, {"B04", "B4"},   {"B05", "B5"},
                                  {"B06", "B6"}, {"B07", "B7"}, {"B08", "B8"}, {"B8A", "B08A"}, {"B09", "B9"},
                                  {"B10"},       {"B11"},       {"B12"},       {"VV"},          {"VH"}};
    return all;
}

int32_t band_id(const std::string& name) {
    for (size_t band = 0; band < spellings().size(); ++band) {
        if (spellings()[band][0] == name) return static_cast<int32_t>(band);
    }
    fail(__FILE__, __LINE__, "unknown band " + name);
}

std::string value_of(const std::string& header, const std::string& payload) {
    std::string value(8, '\0');
    put<uint64_t>(value, 0, header.size());
    return value + header + payload;
}

std::string value_of(const std::vector<Array>& arrays) {
    std::string header = "{", payload;
    for (const Array& array : arrays) {
        std::string shape;
        for (const uint64_t extent : array.shape)
            shape += (shape.empty() ? "" : ",") + std::to_string(extent);
        const std::string begin = std::to_string(payload.size());
        payload += array.bytes;
        header += (header.size() > 1 ? ",\"" : "\"") + array.name + "\":{\"dtype\":\"" + array.dtype +
                  "\",\"shape\":[" + shape + "],\"data_offsets\":[" + begin + "," +
                  std::to_string(payload.size()) + "]}";
    }
    header += "}";
    header.resize((header.size() + 7) / 8 * 8, ' ');  // as the reference implementation
    return value_of(header, payload);
}

std::string database_of(const Entries& entries, const Paging& paging) {
    return TreeWriter(paging).write(entries);
}

std::string key_of(const char* sensor, uint64_t patch) {
    std::string digits = std::to_string(patch);
    return std::string(sensor) + "_" + std::string(digits.size() < 3 ? 3 - digits.size() : 0, '0') + digits;
}

std::string ms_patch(uint64_t patch, uint64_t side) {
    std::vector<Array> arrays;
    for (const char* name : {"B02", "B03", "B05", "B08", "B8A"}) {
        const uint64_t pixels = name == std::string("B05") || name == std::string("B8A") ? side / 2 : side;
        arrays.push_back({name, "U16", {pixels, pixels}, image<uint16_t>(patch, band_id(name), pixels)});
    }
    return value_of(arrays);
}

std::string sar_patch(uint64_t patch, uint64_t side) {
    std::vector<Array> arrays;
    for (const char* name : {"VH", "VV"}) {
        arrays.push_back({name, "F32", {side, side}, image<float>(patch, band_id(name), side)});
    }
    return value_of(arrays);
}

Entries pairs(uint64_t count, uint64_t side) {
    Entries entries;
    for (uint64_t patch = 0; patch < count; ++patch) {
        entries[key_of("s2", patch)] = ms_patch(patch, side);
        entries[key_of("s1", patch)] = sar_patch(patch, side);
    }
    return entries;
}

std::map<std::string, std::string> seeds() {
    Entries tiny;  // values short enough to lie inside leaf pages of 512 bytes
    for (uint64_t patch = 0; patch < 24; ++patch) {
        tiny[key_of("s2", patch)] = value_of({{"B02", "U8", {1, 3}, "abc"}});
        tiny[key_of("s1", patch)] = value_of({{"VV", "I16", {1, 2}, "abcd"}});
    }
    Entries long_keys = pairs(2, 2);
    for (uint64_t patch = 0; patch < 4; ++patch) {
        long_keys[key_of("s2", patch) + std::string(480, 'k')] = value_of({{"B3", "F16", {2, 1}, "abcd"}});
    }
    return {{"page512_inline", database_of(tiny, {512})},
            {"page512_deep", database_of(tiny, {512, 4, 2, 2})},
            {"page512_overflow", database_of(pairs(3, 4), {512, 7})},
            {"page1024_pairs", database_of(pairs(4, 2), {1024, 2, 3, 3})},
            {"page4096_long_keys", database_of(long_keys, {4096, 9, 3})},
            {"page8192_pairs", database_of(pairs(2, 6), {8192})}};
}

void write_file(const std::string& path, const std::string& content) {
    std::ofstream file(path, std::ios::binary);
    file.write(content.data(), static_cast<std::streamsize>(content.size()));
    if (!file.flush()) fail(__FILE__, __LINE__, "cannot write " + path);
}

TemporaryFile::TemporaryFile(const std::string& content) {
    path_ = (access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp") + std::string("/rsdnet-XXXXXX");
    file_ = mkstemp(path_.data());
    CHECK(file_ >= 0);
    write(0, content);
}

TemporaryFile::~TemporaryFile() {
    ::close(file_);
    remove();
}

void TemporaryFile::remove() const {
    unlink(path_.c_str());
}

void TemporaryFile::truncate(uint64_t size) const {
    CHECK(ftruncate(file_, static_cast<off_t>(size)) == 0);
}

void TemporaryFile::write(uint64_t offset, const std::string& bytes) const {
    CHECK(pwrite(file_, bytes.data(), bytes.size(), static_cast<off_t>(offset)) ==
          static_cast<ssize_t>(bytes.size()));
}

}  // namespace rsdnet::test
