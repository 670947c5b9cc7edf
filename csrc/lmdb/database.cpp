#include "lmdb/database.hpp"

#include <utility>

#include "error.hpp"

namespace rsdnet {

Database::Database(std::string path) : file_(std::move(path)), meta_(read_meta(file_)) {
    check_tree(file_, meta_);
    check_unchanged();
}

void Database::check_unchanged() const {
    file_.check();
    if (read_meta(file_).transaction != meta_.transaction) {
        throw FileError(path() + ": was written to while it was open; open it when the writer has finished");
    }
}

}  // namespace rsdnet
