#include "tree.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <cstring>

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

[[noreturn]] void truncated(const std::string& path, uint64_t size) {
    throw Error(path + ": is truncated: it has " + std::to_string(size) +
                " bytes but refers to bytes beyond them; copy or ingest it again");
}

[[noreturn]] void damaged(const std::string& path, const std::string& what) {
    throw Error(path + ": is damaged: " + what + "; copy or ingest it again");
}

Meta read_meta(const uint8_t* page) {
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

[[noreturn]] void wrong_format(const std::string& path, uint32_t version) {
    throw Error(path + ": is in LMDB data format " + std::to_string(version) +
                ", of LMDB 1.0 or newer, but format 1, of LMDB 0.9, is needed; write it with lib_version=0 "
                "of py-lmdb");
}

[[noreturn]] void not_lmdb(const std::string& path) {
    throw Error(path + ": is not an LMDB database; give a folder that rico-hdl or rsdnet.ingest wrote");
}

// Magic and version of one meta page that lies within the file.
void check_meta(const std::string& path, const uint8_t* page) {
    const uint8_t* meta = page + kPageHeader;
    constexpr uint64_t kNewHeader = 24;  // page header of LMDB 1.0
    if (load<uint32_t>(page + kNewHeader) == kMagic)
        wrong_format(path, load<uint32_t>(page + kNewHeader + 4));
    if (load<uint32_t>(meta) != kMagic || (load<uint16_t>(page + 10) & kMetaPage) == 0) not_lmdb(path);
    if (const auto version = load<uint32_t>(meta + 4); version != kVersion) wrong_format(path, version);
}

class TreeCheck {
  public:
    TreeCheck(const std::string& path, const uint8_t* file, uint64_t size, const Meta& meta)
        : path_(path), file_(file), size_(size), meta_(meta) {}

    void run() {
        visit(meta_.root, 1);
        if (entries_ != meta_.entries) damaged(path_, "its tree and its entry count disagree");
    }

  private:
    const uint8_t* page(uint64_t number) const {
        if (number < 2) damaged(path_, "a tree page lies on a meta page");
        if (number > meta_.last_page) damaged(path_, "its tree has a page past its last page");
        if (number >= size_ / meta_.page_size) truncated(path_, size_);
        return file_ + number * meta_.page_size;
    }

    void visit(uint64_t number, uint16_t level) {
        // A tree has no page twice, so a loop or a shared page shows by the count.
        if (++pages_ > size_ / meta_.page_size) damaged(path_, "its tree has more pages than the file");
        const uint8_t* const start = page(number);
        const bool leaf = level == meta_.depth;
        if ((load<uint16_t>(start + 10) & kPageKinds) != (leaf ? kLeaf : kBranch)) {
            damaged(path_, "page " + std::to_string(number) + " is of the wrong kind");
        }
        const auto lower = load<uint16_t>(start + 12);
        const uint64_t nodes = lower < kPageHeader ? 0 : (lower - kPageHeader) / 2;
        if (lower > meta_.page_size || nodes < (leaf ? 1u : 2u)) {
            damaged(path_, "page " + std::to_string(number) + " has a wrong number of nodes");
        }
        if (!leaf && level + 1 == meta_.depth) ask_ahead(start, nodes);
        for (uint64_t i = 0; i < nodes; ++i) {
            const uint8_t* const node = check_node(start, number, i);
            if (leaf) {
                check_leaf(start, node, number);
            } else {
                visit(child(node), level + 1);
            }
        }
    }

    // The i-th node of a page, with its header and key inside the page.
    const uint8_t* check_node(const uint8_t* start, uint64_t number, uint64_t i) const {
        const uint64_t offset = load<uint16_t>(start + kPageHeader + 2 * i);
        if (offset % 2 != 0 || offset < kPageHeader || offset + kNodeHeader > meta_.page_size ||
            offset + kNodeHeader + load<uint16_t>(start + offset + 6) > meta_.page_size) {
            damaged(path_, "a node of page " + std::to_string(number) + " lies outside it");
        }
        return start + offset;
    }

    static uint64_t child(const uint8_t* node) {  // NODEPGNO: 48 bits
        return load<uint32_t>(node) | static_cast<uint64_t>(load<uint16_t>(node + 4)) << 32;
    }

    void check_leaf(const uint8_t* start, const uint8_t* node, uint64_t number) {
        const uint64_t bytes = load<uint32_t>(node);
        const auto flags = load<uint16_t>(node + 4);
        const uint64_t key_bytes = load<uint16_t>(node + 6);
        const uint8_t* const data = node + kNodeHeader + key_bytes;
        const uint64_t room = static_cast<uint64_t>(start + meta_.page_size - data);
        if (flags & (kSubDatabase | kDuplicates)) {
            throw Error(
                path_ + ": entry " + quoted({reinterpret_cast<const char*>(node) + kNodeHeader, key_bytes}) +
                " is a sub-database, not a patch; give a database that rico-hdl or rsdnet.ingest wrote");
        }
        if ((flags & kBigData) == 0) {
            if (bytes > room)
                damaged(path_, "a value in page " + std::to_string(number) + " lies outside it");
        } else {
            if (room < 8) damaged(path_, "a node of page " + std::to_string(number) + " lies outside it");
            check_overflow(load<uint64_t>(data), bytes);
        }
        ++entries_;
    }

    // A value on pages of its own: from `number` on, after one page header.
    void check_overflow(uint64_t number, uint64_t bytes) const {
        if (number < 2) damaged(path_, "a value lies on a meta page");
        if (number > meta_.last_page) damaged(path_, "a value lies past its last page");
        if (number > size_ / meta_.page_size) truncated(path_, size_);
        if (kPageHeader + bytes > size_ - number * meta_.page_size) truncated(path_, size_);
    }

    // Leaf pages lie scattered among the values: let a disk fetch all children of a page at once.
    void ask_ahead(const uint8_t* start, uint64_t nodes) const {
        static const auto system_page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
        for (uint64_t i = 0; i < nodes; ++i) {
            const uint64_t offset = load<uint16_t>(start + kPageHeader + 2 * i);
            if (offset + kNodeHeader > meta_.page_size) continue;
            const uint64_t number = child(start + offset);
            if (number >= size_ / meta_.page_size) continue;
            const auto address = reinterpret_cast<uintptr_t>(file_ + number * meta_.page_size);
            const uintptr_t aligned = address / system_page * system_page;
            madvise(reinterpret_cast<void*>(aligned), address - aligned + meta_.page_size, MADV_WILLNEED);
        }
    }

    const std::string& path_;
    const uint8_t* file_;
    uint64_t size_;
    const Meta& meta_;
    uint64_t pages_ = 0, entries_ = 0;
};

}  // namespace

void check_metas(const std::string& path, const uint8_t* file, uint64_t size) {
    if (size == 0) throw Error(path + ": is empty (0 bytes); copy or ingest it again");
    if (size < kPageHeader + kMetaBytes) not_lmdb(path);
    check_meta(path, file);
    const uint32_t page_size = read_meta(file).page_size;
    if (page_size < kSmallestPage || page_size > kLargestPage || (page_size & (page_size - 1)) != 0) {
        damaged(path, "its page size is " + std::to_string(page_size));
    }
    if (size < 2 * uint64_t{page_size}) truncated(path, size);
    check_meta(path, file + page_size);
    if (read_meta(file + page_size).page_size != page_size) damaged(path, "its meta pages disagree");
}

Meta find_meta(const std::string& path, const uint8_t* file, uint64_t size, uint64_t transaction) {
    const uint32_t page_size = read_meta(file).page_size;
    if (size < 2 * uint64_t{page_size}) truncated(path, size);
    for (const uint8_t* page : {file, file + page_size}) {
        const Meta meta = read_meta(page);
        if (meta.transaction == transaction) return meta;
    }
    throw Error(path + ": is being written to; open it when the writer has finished");
}

void check_tree(const std::string& path, const uint8_t* file, uint64_t size, const Meta& meta) {
    if ((meta.flags & 0x7FFF) != 0) {
        throw Error(path + ": keeps duplicates or integer keys (flags " + std::to_string(meta.flags) +
                    "); give a database that rico-hdl or rsdnet.ingest wrote");
    }
    if (meta.root == kNoRoot || meta.entries == 0) {
        throw Error(path + ": holds no entries; ingest into it first");
    }
    if (meta.depth == 0 || meta.depth >= kDeepest)
        damaged(path, "its tree is " + std::to_string(meta.depth) + " deep");
    if (meta.last_page >= (uint64_t{1} << 62) / meta.page_size)
        damaged(path, "its last page is out of range");
    TreeCheck(path, file, size, meta).run();
}

}  // namespace rsdnet
