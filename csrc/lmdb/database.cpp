#include "lmdb/database.hpp"

#include <cstring>
#include <utility>

#include "error.hpp"

namespace rsdnet {

Database::Database(std::string path, Access access)
    : file_(std::move(path), access), meta_(read_meta(file_)) {
    check_tree(file_, meta_);
    check_unchanged();
}

void Database::read(uint64_t offset, uint64_t at, uint64_t bytes, uint8_t* out, Stores stores) const {
    if (is_fetched(offset)) {
        file_.copy(offset + at, bytes, out, stores);
    } else {
        file_.read(offset + at, bytes, out, stores);
    }
}

bool Database::begins_with(uint64_t offset, std::string_view expected, std::string& scratch) const {
    if (is_fetched(offset) && file_.access() == Access::kPread) {
        return std::memcmp(file_.data() + offset, expected.data(), expected.size()) == 0;
    }
    return file_.equals(offset, expected, scratch);
}

void Database::check_unchanged() const {
    file_.check();
    if (read_meta(file_).transaction != meta_.transaction) {
        throw FileError(path() + ": was written to while it was open; open it when the writer has finished");
    }
}

}  // namespace rsdnet
