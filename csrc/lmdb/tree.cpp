#include "lmdb/tree.hpp"

#include <algorithm>
#include <cstring>
#include <functional>

#include "error.hpp"

namespace rsdnet {
namespace {

// lib/mdb.c: MDB_MAGIC, MDB_DATA_VERSION, PAGEHDRSZ, page flags P_*, node flags F_*, NODESIZE, CURSOR_STACK.
constexpr uint32_t kMagic = 0xBEEFC0DE, kVersion = 1;
constexpr uint64_t kPageHeader = 16, kNodeHeader = 8, kMetaBytes = 136;
constexpr uint16_t kBranch = 0x01, kLeaf = 0x02, kMetaPage = 0x08;
constexpr uint16_t kPageKinds = 0x6F;  // branch, leaf, overflow, meta, leaf2, sub-page
constexpr uint16_t kBigData = 0x01, kSubDatabase = 0x02, kDuplicates = 0x04;
constexpr uint64_t kNoRoot = ~uint64_t{0};
constexpr uint16_t kDeepest = 32;
constexpr uint32_t kSmallestPage = 512, kLargestPage = 32768;  // MDB_MINPAGESIZE in practice, MAX_PAGESIZE

template <typename T>
T load(const uint8_t* address) {
    static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "LMDB files of this format are little-endian");
    T value;
    std::memcpy(&value, address, sizeof(value));
    return value;
}

[[noreturn]] void truncated(const File& file) {
    throw Error(file.path() + ": is truncated: it has " + std::to_string(file.size()) +
                " bytes but refers to bytes beyond them; copy or ingest it again");
}

[[noreturn]] void damaged(const File& file, const std::string& what) {
    throw Error(file.path() + ": is damaged: " + what + "; copy or ingest it again");
}

[[noreturn]] void damaged_page(const File& file, uint64_t number, const char* what) {
    damaged(file, "page " + std::to_string(number) + " " + what);
}

Meta parse_meta(const uint8_t* page) {
    const uint8_t* meta = page + kPageHeader;
    constexpr int kFree = 24, kMain = 72;  // MDB_db of the free list and of the main database
    Meta out{};
    out.page_size = load<uint32_t>(meta + kFree);  // mm_psize
    out.flags = load<uint16_t>(meta + kMain + 4);
    out.depth = load<uint16_t>(meta + kMain + 6);
    out.entries = load<uint64_t>(meta + kMain + 32);
    out.root = load<uint64_t>(meta + kMain + 40);
    out.last_page = load<uint64_t>(meta + 120);
    out.transaction = load<uint64_t>(meta + 128);
    return out;
}

[[noreturn]] void wrong_format(const File& file, uint32_t version) {
    throw Error(file.path() + ": is in LMDB data format " + std::to_string(version) +
                ", of LMDB 1.0 or newer, but format 1, of LMDB 0.9, is needed; write it with lib_version=0 "
                "of py-lmdb");
}

[[noreturn]] void not_lmdb(const File& file) {
    throw Error(file.path() +
                ": is not an LMDB database; give a folder that rico-hdl or rsdnet.ingest wrote");
}

// Magic and version of one meta page that lies within the file.
void check_meta(const File& file, const uint8_t* page) {
    const uint8_t* meta = page + kPageHeader;
    constexpr uint64_t kNewHeader = 24;  // page header of LMDB 1.0
    if (load<uint32_t>(page + kNewHeader) == kMagic)
        wrong_format(file, load<uint32_t>(page + kNewHeader + 4));
    if (load<uint32_t>(meta) != kMagic || (load<uint16_t>(page + 10) & kMetaPage) == 0) not_lmdb(file);
    if (const auto version = load<uint32_t>(meta + 4); version != kVersion) wrong_format(file, version);
}

using PageBytes = std::vector<uint8_t>;  // the bytes of one page

// One page of the tree: a copy of its own, so that what was checked is what is used.
struct Page {
    const uint8_t* start;
    uint64_t number;
    uint64_t nodes;
};

// One node of a page. Its header and key lie inside the page.
struct Node {
    const uint8_t* start;
    uint32_t low;
    uint16_t flags, key_bytes;

    std::string_view key() const { return {reinterpret_cast<const char*>(start) + kNodeHeader, key_bytes}; }
    const uint8_t* data() const { return start + kNodeHeader + key_bytes; }
    uint32_t bytes() const { return low; }  // of a leaf's value
    uint64_t child() const {
        return low | static_cast<uint64_t>(flags) << 32;
    }  // of a branch; NODEPGNO: 48 bits
};

// The pages of a tree. Every number is checked when it is followed, in the check and in each search: the file
// may have changed between them.
class Tree {
  public:
    Tree(const File& file, const Meta& meta) : file_(file), meta_(meta) {}

    // Reads a page into `buffer`, whose memory it then refers to.
    Page page(uint64_t number, bool leaf, PageBytes& buffer) const {
        buffer.resize(meta_.page_size);
        file_.read(offset_of(number), meta_.page_size, buffer.data());
        const uint8_t* const start = buffer.data();
        if ((load<uint16_t>(start + 10) & kPageKinds) != (leaf ? kLeaf : kBranch)) {
            damaged_page(file_, number, "is of the wrong kind");
        }
        const auto lower = load<uint16_t>(start + 12);
        const uint64_t nodes = lower < kPageHeader ? 0 : (lower - kPageHeader) / 2;
        if (lower > meta_.page_size || nodes < (leaf ? 1u : 2u)) {
            damaged_page(file_, number, "has a wrong number of nodes");
        }
        return {start, number, nodes};
    }

    Node node(const Page& page, uint64_t i) const {
        const uint64_t offset = load<uint16_t>(page.start + kPageHeader + 2 * i);
        if (offset % 2 == 0 && offset >= kPageHeader && offset + kNodeHeader <= meta_.page_size) {
            const uint8_t* const start = page.start + offset;
            const Node node{start, load<uint32_t>(start), load<uint16_t>(start + 4),
                            load<uint16_t>(start + 6)};
            if (offset + kNodeHeader + node.key_bytes <= meta_.page_size) return node;
        }
        damaged_page(file_, page.number, "has a node that lies outside it");
    }

    // The value of a leaf's node, inside the file.
    Value value(const Page& page, const Node& node) const {
        const uint64_t bytes = node.bytes();
        const auto room = static_cast<uint64_t>(page.start + meta_.page_size - node.data());
        if (node.flags & (kSubDatabase | kDuplicates)) {
            throw Error(
                file_.path() + ": entry " + quoted(node.key()) +
                " is a sub-database, not a patch; give a database that rico-hdl or rsdnet.ingest wrote");
        }
        uint64_t offset = offset_of(page.number) + static_cast<uint64_t>(node.data() - page.start);
        if (node.flags & kBigData) {
            if (room < 8) damaged_page(file_, page.number, "has a node that lies outside it");
            offset = overflow(load<uint64_t>(node.data()), bytes);
        } else if (bytes > room) {
            damaged_page(file_, page.number, "has a value that lies outside it");
        }
        return {offset, static_cast<uint32_t>(bytes)};
    }

    // Lets a disk fetch all children of a page at once: leaf pages lie scattered among the values.
    void ask_ahead(const Page& page) const {
        for (uint64_t i = 0; i < page.nodes; ++i) {
            const uint64_t number = node(page, i).child();
            if (number < file_.size() / meta_.page_size)
                file_.ask_ahead(number * meta_.page_size, meta_.page_size);
        }
    }

    uint16_t depth() const { return meta_.depth; }
    uint64_t root() const { return meta_.root; }

  private:
    uint64_t offset_of(uint64_t number) const {
        if (number < 2) damaged(file_, "a tree page lies on a meta page");
        if (number > meta_.last_page) damaged(file_, "its tree has a page past its last page");
        if (number >= file_.size() / meta_.page_size) truncated(file_);
        return number * meta_.page_size;
    }

    // A value on pages of its own: from `number` on, after one page header.
    uint64_t overflow(uint64_t number, uint64_t bytes) const {
        if (number < 2) damaged(file_, "a value lies on a meta page");
        if (number > meta_.last_page) damaged(file_, "a value lies past its last page");
        if (number > file_.size() / meta_.page_size) truncated(file_);
        const uint64_t start = number * meta_.page_size;
        if (kPageHeader + bytes > file_.size() - start) truncated(file_);
        return start + kPageHeader;
    }

    const File& file_;
    const Meta& meta_;
};

// Calls visit(key, value) for every entry, in the order of their keys.
class Walk {
  public:
    using Visit = std::function<void(std::string_view, const Value&)>;
    Walk(const File& file, const Meta& meta)
        : file_(file), tree_(file, meta), most_(file.size() / meta.page_size), buffers_(meta.depth) {}

    void run(const Visit& visit) { descend(tree_.root(), 1, visit); }

  private:
    void descend(uint64_t number, uint16_t level, const Visit& visit) {
        // A tree has no page twice, so a loop or a shared page shows by the count.
        if (++pages_ > most_) damaged(file_, "its tree has more pages than the file");
        const bool leaf = level == tree_.depth();
        const Page page = tree_.page(number, leaf, buffers_[level - 1u]);
        if (level + 1 == tree_.depth()) tree_.ask_ahead(page);
        for (uint64_t i = 0; i < page.nodes; ++i) {
            const Node node = tree_.node(page, i);
            if (leaf) {
                visit(node.key(), tree_.value(page, node));
            } else {
                descend(node.child(), level + 1, visit);
            }
        }
    }

    const File& file_;
    Tree tree_;
    uint64_t pages_ = 0, most_;
    std::vector<PageBytes> buffers_;  // by level
};

// The first node of a page whose key is not less than `key`. A branch's first node stands for all lesser
// keys.
uint64_t lower_bound(const Tree& tree, const Page& page, uint64_t first, std::string_view key) {
    uint64_t low = first, high = page.nodes;
    while (low < high) {
        const uint64_t middle = low + (high - low) / 2;
        if (tree.node(page, middle).key() < key) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

}  // namespace

Meta read_meta(const File& file) {
    if (file.size() == 0) throw Error(file.path() + ": is empty (0 bytes); copy or ingest it again");
    if (file.size() < kPageHeader + kMetaBytes) not_lmdb(file);
    uint8_t first[kPageHeader + kMetaBytes], second[kPageHeader + kMetaBytes];
    file.read(0, sizeof(first), first);
    check_meta(file, first);
    const Meta one = parse_meta(first);
    const uint32_t page_size = one.page_size;
    if (page_size < kSmallestPage || page_size > kLargestPage || (page_size & (page_size - 1)) != 0) {
        damaged(file, "its page size is " + std::to_string(page_size));
    }
    if (file.size() < 2 * uint64_t{page_size}) truncated(file);
    file.read(page_size, sizeof(second), second);
    check_meta(file, second);
    const Meta two = parse_meta(second);
    if (two.page_size != page_size) damaged(file, "its meta pages disagree");
    return two.transaction > one.transaction ? two : one;
}

void check_tree(const File& file, const Meta& meta) {
    if ((meta.flags & 0x7FFF) != 0) {
        throw Error(file.path() + ": keeps duplicates or integer keys (flags " + std::to_string(meta.flags) +
                    "); give a database that rico-hdl or rsdnet.ingest wrote");
    }
    if (meta.root == kNoRoot || meta.entries == 0) {
        throw Error(file.path() + ": holds no entries; ingest into it first");
    }
    if (meta.depth == 0 || meta.depth >= kDeepest)
        damaged(file, "its tree is " + std::to_string(meta.depth) + " deep");
    if (meta.last_page >= (uint64_t{1} << 48) / meta.page_size)
        damaged(file, "its last page is out of range");
    uint64_t entries = 0;
    Walk(file, meta).run([&](std::string_view, const Value&) { ++entries; });
    if (entries != meta.entries) damaged(file, "its tree and its entry count disagree");
}

bool find_value(const File& file, const Meta& meta, std::string_view key, Value* value) {
    const Tree tree(file, meta);
    PageBytes buffer;
    uint64_t number = tree.root();
    for (uint16_t level = 1; level < tree.depth(); ++level) {
        const Page page = tree.page(number, false, buffer);
        uint64_t i = lower_bound(tree, page, 1, key);
        if (i == page.nodes || tree.node(page, i).key() != key) --i;
        number = tree.node(page, i).child();
    }
    const Page leaf = tree.page(number, true, buffer);
    const uint64_t i = lower_bound(tree, leaf, 0, key);
    if (i == leaf.nodes) return false;
    const Node node = tree.node(leaf, i);
    if (node.key() != key) return false;
    *value = tree.value(leaf, node);
    return true;
}

std::vector<Entry> list_entries(const File& file, const Meta& meta) {
    std::vector<Entry> entries;
    entries.reserve(meta.entries);
    Walk(file, meta).run([&](std::string_view key, const Value& value) {
        entries.push_back({std::string(key), value});
    });
    return entries;
}

}  // namespace rsdnet
