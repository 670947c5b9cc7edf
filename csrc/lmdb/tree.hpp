// The tree of an LMDB 0.9 database: checked whole, then searched and listed, without harm whatever is in it.
//
// LMDB's own library trusts its file: a damaged page number or node offset makes it read outside its map.
// This code reads the format (lib/mdb.c of LMDB 0.9.35, structs MDB_page, MDB_node, MDB_db and MDB_meta;
// 64-bit, little-endian), checks every number before it follows it, and never writes.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "lmdb/file.hpp"

namespace rsdnet {

// The value of an entry.
struct Value {
    uint64_t offset;  // in the file
    uint32_t bytes;   // LMDB stores sizes in 32 bits
};

struct Entry {
    std::string key;
    Value value;
};

// What a meta page says about the database.
struct Meta {
    uint64_t transaction;  // that committed it
    uint64_t root;         // page of the tree's root
    uint64_t entries;
    uint64_t last_page;
    uint32_t page_size;  // bytes
    uint16_t depth;      // levels of the tree
    uint16_t flags;      // of the main database
};

// The newer of the two meta pages. Error if the file is empty, is not LMDB, is of LMDB 1.0 or ends within its
// meta pages.
Meta read_meta(const File& file);

// Reads every page of the tree and checks every node against the file's size. Values are not touched.
// Error if the file is truncated or damaged, holds no entries, or holds sub-databases or duplicates.
void check_tree(const File& file, const Meta& meta);

// Looks up a key in a checked tree; false if it is absent. Any number of threads.
bool find_value(const File& file, const Meta& meta, std::string_view key, Value* value);

// All entries of a checked tree, in the order of their keys.
std::vector<Entry> list_entries(const File& file, const Meta& meta);

}  // namespace rsdnet
