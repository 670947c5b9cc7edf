#include "environment.hpp"

#include <sys/stat.h>

#include <utility>

#include "error.hpp"
#include "mapping.hpp"
#include "tree.hpp"

namespace rsdnet {
Environment::Environment(std::string path) : path_(std::move(path)) {
    try {
        open();
    } catch (...) {
        close();
        throw;
    }
}

Environment::~Environment() {
    close();
}

void Environment::open() {
    const Mapping file(path_);
    check_metas(path_, file.data(), file.size());
    size_ = file.size();
    if (int code = mdb_env_create(&env_)) fail("cannot be opened", code);
    // The file's own size: a recorded map size (rico-hdl's is 100 TiB) need not fit this machine.
    if (int code = mdb_env_set_mapsize(env_, size_)) fail("cannot be mapped", code);
    constexpr unsigned kFlags = MDB_NOSUBDIR | MDB_RDONLY | MDB_NOLOCK | MDB_NOTLS | MDB_NORDAHEAD;
    if (int code = mdb_env_open(env_, path_.c_str(), kFlags, 0)) fail("cannot be opened", code);
    if (int code = mdb_txn_begin(env_, nullptr, MDB_RDONLY, &txn_)) fail("cannot be read", code);
    transaction_ = mdb_txn_id(txn_);
    const Meta meta = find_meta(path_, file.data(), file.size(), transaction_);
    check_tree(path_, file.data(), file.size(), meta);
    entries_ = meta.entries;
    MDB_dbi main = 0;
    if (int code = mdb_dbi_open(txn_, nullptr, 0, &main)) fail("cannot be read", code);
    if (int code = mdb_cursor_open(txn_, main, &cursor_)) fail("cannot be read", code);
    check_unchanged();
}

void Environment::close() {
    if (cursor_) mdb_cursor_close(cursor_);
    if (txn_) mdb_txn_abort(txn_);
    if (env_) mdb_env_close(env_);
    cursor_ = nullptr, txn_ = nullptr, env_ = nullptr;
}

void Environment::fail(const char* what, int code) const {
    throw Error(path_ + ": " + what + ": " + mdb_strerror(code));
}

bool Environment::find(std::string_view key, Item* item) {
    MDB_val name{key.size(), const_cast<char*>(key.data())}, value{};
    if (key.empty()) return false;
    const int code = mdb_cursor_get(cursor_, &name, &value, MDB_SET_KEY);
    if (code == MDB_NOTFOUND) return false;
    if (code) fail("cannot be searched", code);
    *item = {static_cast<const uint8_t*>(value.mv_data), static_cast<const char*>(name.mv_data),
             static_cast<uint32_t>(value.mv_size), static_cast<uint16_t>(name.mv_size)};
    return true;
}

std::vector<Item> Environment::items() {
    std::vector<Item> out;
    out.reserve(entries_);
    MDB_val name{}, value{};
    int code = mdb_cursor_get(cursor_, &name, &value, MDB_FIRST);
    for (; code == 0; code = mdb_cursor_get(cursor_, &name, &value, MDB_NEXT)) {
        out.push_back({static_cast<const uint8_t*>(value.mv_data), static_cast<const char*>(name.mv_data),
                       static_cast<uint32_t>(value.mv_size), static_cast<uint16_t>(name.mv_size)});
    }
    if (code != MDB_NOTFOUND) fail("cannot be listed", code);
    return out;
}

void Environment::check_size() const {
    mdb_filehandle_t file{};
    struct stat status{};
    if (mdb_env_get_fd(env_, &file) == 0 && fstat(file, &status) == 0 &&
        static_cast<uint64_t>(status.st_size) >= size_) {
        return;
    }
    throw Error(path_ + ": was truncated while it was open; copy or ingest it again");
}

void Environment::check_unchanged() const {
    check_size();
    MDB_envinfo info{};
    if (int code = mdb_env_info(env_, &info)) fail("cannot be read", code);
    if (info.me_last_txnid != transaction_) {
        throw Error(path_ + ": was written to while it was open; open it when the writer has finished");
    }
}

}  // namespace rsdnet
