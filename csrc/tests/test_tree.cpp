// Check and search of a database's tree, on files written by databases.cpp.
#include <cstring>

#include "lmdb/database.hpp"
#include "tests/check.hpp"
#include "tests/databases.hpp"

namespace rsdnet::test {
namespace {

std::string bytes_of(const Database& database, const Value& value) {
    std::string bytes(value.bytes, '\0');
    database.file().read(value.offset, value.bytes, reinterpret_cast<uint8_t*>(bytes.data()));
    return bytes;
}

void check_absent(const Database& database, const Entries& entries) {
    std::vector<std::string> names = {"", std::string(1, '\0'), std::string(1000, '\xff'), "\xff"};
    for (const auto& [key, value] : entries) {
        names.push_back(key + '\0');
        names.push_back(key.substr(0, key.size() - 1));
        names.push_back(key.substr(0, key.size() - 1) + static_cast<char>(key.back() + 1) + "!");
    }
    for (const std::string& name : names) {
        Value value{};
        CHECK(database.find(name, &value) == (entries.count(name) > 0));
    }
}

void check_database(const Entries& entries, const Paging& paging) {
    const TemporaryFile file(database_of(entries, paging));
    const Database database(file.path());
    CHECK(database.entries() == entries.size());
    const std::vector<Entry> listed = database.list();
    CHECK(listed.size() == entries.size());
    size_t i = 0;
    for (const auto& [key, value] : entries) {
        CHECK(listed[i].key == key && bytes_of(database, listed[i].value) == value);
        Value found{};
        CHECK(database.find(key, &found) && found.offset == listed[i].value.offset);
        CHECK(found.bytes == value.size());
        ++i;
    }
    check_absent(database, entries);
    database.check_unchanged();
}

// The message with which opening this file fails, or nothing.
std::string refusal(const std::string& content) {
    const TemporaryFile file(content);
    const std::string said = error_of([&] { Database(file.path()).list(); });
    CHECK(said.empty() || said.find(file.path() + ": ") == 0);
    return said;
}

bool has(const std::string& text, const char* part) {
    return text.find(part) != std::string::npos;
}

// Twelve entries, three levels, pages of 512 bytes; the last page is the root.
struct Deep {
    static constexpr size_t kPage = 512;
    std::string content = database_of(pairs(6, 2), {kPage, 1, 3, 2});

    size_t pages() const { return content.size() / kPage; }
    size_t root() const { return (pages() - 1) * kPage; }
    template <typename T>
    T get(size_t offset) const {
        T value;
        std::memcpy(&value, content.data() + offset, sizeof(value));
        return value;
    }
    template <typename T>
    Deep with(size_t offset, T value) const {
        Deep changed = *this;
        std::memcpy(changed.content.data() + offset, &value, sizeof(value));
        return changed;
    }
    // Of the meta page in use.
    static constexpr size_t meta(size_t offset) { return kPage + 16 + offset; }
    size_t node(size_t page, size_t i) const { return page + get<uint16_t>(page + 16 + 2 * i); }
    size_t child(size_t page, size_t i) const { return get<uint32_t>(node(page, i)) * kPage; }
    size_t last(size_t page) const { return (get<uint16_t>(page + 12) - 16u) / 2 - 1; }
    size_t leaf() const { return child(child(root(), 0), 0); }
    size_t last_leaf() const {
        const size_t inner = child(root(), last(root()));
        return child(inner, last(inner));
    }
};

}  // namespace

TEST(entries_are_found_in_trees_of_every_shape) {
    for (const uint32_t page_size : {512u, 1024u, 4096u, 16384u, 32768u}) {
        check_database(pairs(1, 2), {page_size, 1});
        check_database(pairs(30, 2), {page_size, 6});
        check_database(pairs(20, 20), {page_size, 1});  // values of several pages
        check_database(pairs(12, 2), {page_size, 3, 1, 2});
        check_database(pairs(100, 2), {page_size, 3, 3, 5});
    }
}

TEST(keys_of_any_bytes_are_ordered_as_lmdb_orders_them) {
    Entries entries;
    for (int i = 0; i < 400; ++i) {
        const char bytes[] = {static_cast<char>(i * 37), static_cast<char>(i), '\0',
                              static_cast<char>(i >> 3)};
        entries[std::string(bytes, 1 + static_cast<size_t>(i) % 4)] = std::to_string(i);
    }
    for (size_t length = 1; length < 512; length += 50) entries[std::string(length, 'k')] = "";
    check_database(entries, {2048, 1, 7, 3});
}

TEST(the_newer_meta_page_counts) {
    for (const uint64_t transaction : {uint64_t{1}, uint64_t{2}, uint64_t{1} << 63}) {
        check_database(pairs(3, 2), {512, transaction});
    }
}

TEST(a_tree_without_entries_is_refused) {
    CHECK(has(refusal(database_of({}, {})), "holds no entries"));
    CHECK(has(refusal(""), "is empty"));
    CHECK(has(refusal(std::string(100, '\0')), "is not an LMDB database"));
    CHECK(has(refusal(std::string(9000, '\0')), "is not an LMDB database"));
}

TEST(a_file_cut_anywhere_is_refused) {
    const Deep deep;
    CHECK(refusal(deep.content).empty());
    for (size_t size = 0; size < deep.content.size(); size += size < 700 ? 1 : 61) {
        CHECK(!refusal(deep.content.substr(0, size)).empty());
    }
    const std::string overflow = database_of({{"a", std::string(5000, 'x')}}, {512});
    CHECK(refusal(overflow).empty());
    CHECK(!refusal(overflow.substr(0, overflow.size() - 1)).empty());
}

TEST(damaged_meta_pages_are_refused) {
    const Deep deep;
    const auto meta = [&](size_t offset, auto value) {
        return refusal(deep.with(Deep::meta(offset), value).content);
    };
    CHECK(has(meta(0, uint32_t{7}), "is not an LMDB database"));
    CHECK(has(meta(4, uint32_t{2}), "data format 2"));
    CHECK(has(meta(24, uint32_t{1024}), "meta pages disagree"));
    for (const uint32_t page_size : {0u, 256u, 513u, 65536u, 1u << 31}) {
        CHECK(has(refusal(deep.with(16 + 24, page_size).content), "its page size is"));
    }
    CHECK(has(meta(72 + 4, uint16_t{4}), "keeps duplicates or integer keys"));
    for (const uint16_t depth : {0, 1, 2, 4, 31, 32, 65535}) CHECK(has(meta(72 + 6, depth), "is damaged"));
    CHECK(has(meta(72 + 32, uint64_t{11}), "entry count disagree"));
    CHECK(has(meta(72 + 32, UINT64_MAX), "entry count disagree"));
    CHECK(has(meta(72 + 40, uint64_t{1}), "on a meta page"));
    for (const uint64_t root : {uint64_t{1} << 32, uint64_t{1} << 55, UINT64_MAX - 1})
        CHECK(!meta(72 + 40, root).empty());
    CHECK(has(meta(120, uint64_t{5}), "past its last page"));
    CHECK(has(meta(120, UINT64_MAX), "last page is out of range"));
}

TEST(damaged_pages_are_refused) {
    const Deep deep;
    for (const size_t page : {deep.root(), deep.child(deep.root(), 0), deep.leaf()}) {
        for (const uint16_t kind : {0, 3, 4, 8, 0x22, 0x42}) {
            CHECK(has(refusal(deep.with<uint16_t>(page + 10, kind).content), "is of the wrong kind"));
        }
        for (const uint16_t lower : {0, 15, 16, 17, 513, 65535}) {
            CHECK(has(refusal(deep.with<uint16_t>(page + 12, lower).content), "wrong number of nodes"));
        }
        for (const uint16_t offset : {0, 14, 505, 511, 512, 65534}) {
            CHECK(has(refusal(deep.with<uint16_t>(page + 16, offset).content), "lies outside it"));
        }
        CHECK(has(refusal(deep.with<uint16_t>(deep.node(page, 0) + 6, 512).content), "lies outside it"));
    }
}

TEST(a_tree_that_bites_its_tail_is_refused) {
    const Deep deep;
    const size_t inner = deep.child(deep.root(), 0);
    const auto point = [&](size_t page, size_t target) {
        return refusal(
            deep.with<uint32_t>(deep.node(page, 0), static_cast<uint32_t>(target / Deep::kPage)).content);
    };
    CHECK(has(point(deep.root(), deep.root()), "is damaged"));
    CHECK(has(point(inner, deep.root()), "is damaged"));
    CHECK(has(point(inner, inner), "is damaged"));
    CHECK(has(point(inner, 0), "on a meta page"));
    CHECK(!refusal(deep.with<uint16_t>(deep.node(inner, 0) + 4, 1).content).empty());  // a child at 2^32
}

TEST(values_outside_the_file_are_refused) {
    const Deep deep;
    const size_t node = deep.node(deep.last_leaf(), 0);
    CHECK(deep.get<uint16_t>(node + 4) == 1);  // an S2 patch lies on pages of its own
    const size_t number = node + 8 + deep.get<uint16_t>(node + 6);
    for (const uint64_t page : {uint64_t{0}, uint64_t{1}}) {
        CHECK(has(refusal(deep.with(number, page).content), "a value lies on a meta page"));
    }
    for (const uint64_t page : {uint64_t{deep.pages()}, uint64_t{1} << 55, UINT64_MAX}) {
        CHECK(has(refusal(deep.with(number, page).content), "a value lies past its last page"));
    }
    for (const uint32_t bytes : {uint32_t{1} << 16, UINT32_MAX}) {
        CHECK(has(refusal(deep.with(node, bytes).content), "is truncated"));
        CHECK(has(refusal(deep.with(node, bytes).with<uint16_t>(node + 4, 0).content), "lies outside it"));
    }
    CHECK(has(refusal(deep.with<uint16_t>(node + 4, 2).content), "is a sub-database"));
    CHECK(has(refusal(deep.with<uint16_t>(node + 4, 4).content), "is a sub-database"));
    // The largest value that fits ends with the file.
    const auto last =
        static_cast<uint32_t>(deep.content.size() - deep.get<uint32_t>(number) * Deep::kPage - 16);
    CHECK(refusal(deep.with(node, last).content).empty());
    CHECK(has(refusal(deep.with(node, last + 1).content), "is truncated"));
}

TEST(a_search_in_a_tree_that_changed_since_stays_inside_the_file) {
    const Deep deep;
    const Entries entries = pairs(6, 2);
    const TemporaryFile file(deep.content);
    const Database database(file.path());
    for (size_t offset = 2 * Deep::kPage; offset + 8 <= deep.content.size(); offset += 2) {
        const uint16_t kind = deep.get<uint16_t>(offset / Deep::kPage * Deep::kPage + 10);
        if ((kind & 3) == 0) continue;
        file.write(offset, std::string(2, '\xff'));
        for (const auto& entry : entries) {
            Value value{};
            bool found = false;
            error_of([&] { found = database.find(entry.first, &value); });
            CHECK(!found || value.offset + value.bytes <= deep.content.size());
        }
        error_of([&] { database.list(); });
        file.write(offset, deep.content.substr(offset, 2));
    }
    CHECK(database.list().size() == entries.size());
}

TEST(a_commit_under_the_reader_is_noticed) {
    const Deep deep;
    const TemporaryFile file(deep.content);
    const Database database(file.path());
    database.check_unchanged();
    file.write(16 + 128, std::string("\x02\0\0\0\0\0\0\0", 8));  // transaction 2 on the first meta page
    CHECK_ERROR(database.check_unchanged(), "was written to while it was open");
}

}  // namespace rsdnet::test
