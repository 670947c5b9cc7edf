// Is a file an LMDB 0.9 database that can be walked without harm?
//
// LMDB trusts its file: a damaged page number or node offset makes it read outside its map. So before LMDB
// looks anything up, every page of the tree is checked here: after that, no key that a lookup can reach, and
// no value it can return, lies outside the file. Values themselves are not touched. The format: lib/mdb.c of
// LMDB 0.9.35, structs MDB_page, MDB_node, MDB_db and MDB_meta (64-bit, little-endian).
#pragma once

#include <cstdint>
#include <string>

namespace rsdnet {

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

// Checks magic number, version and page size of both meta pages. `path` is for messages.
// Error if the file is empty, is not LMDB, is of LMDB 1.0 or ends within its meta pages.
void check_metas(const std::string& path, const uint8_t* file, uint64_t size);

// The meta page that transaction `transaction` committed. Error if neither page is (the file changes as we
// read).
Meta find_meta(const std::string& path, const uint8_t* file, uint64_t size, uint64_t transaction);

// Walks the tree and checks every page and node against the file's size.
// Error if the file is truncated or damaged, holds no entries, or holds sub-databases or duplicates.
void check_tree(const std::string& path, const uint8_t* file, uint64_t size, const Meta& meta);

}  // namespace rsdnet
