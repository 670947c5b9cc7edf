#include "read/reader.hpp"

#include <sys/stat.h>
#include <unistd.h>

#include <cstring>

#include "error.hpp"

namespace rsdnet {
namespace {

// The data file that a path means.
std::string data_file(const std::string& path) {
    struct stat status{};
    if (stat(path.c_str(), &status) != 0) {
        throw Error(path + ": " + std::strerror(errno) + "; give a folder that holds data.mdb");
    }
    if (!S_ISDIR(status.st_mode)) return path;
    std::string file = path + (path.back() == '/' ? "" : "/") + "data.mdb";
    if (stat(file.c_str(), &status) != 0) {
        throw Error(path + ": holds no data.mdb; give a folder that rico-hdl or rsdnet.ingest wrote");
    }
    return file;
}

}  // namespace

Reader::Reader(std::vector<std::string> paths, Spellings spellings, int threads)
    : paths_(std::move(paths)),
      spellings_(std::move(spellings)),
      threads_(threads > 0 ? threads : usable_cores()),
      process_(getpid()) {
    for (const std::string& path : paths_) databases_.push_back(std::make_unique<Database>(data_file(path)));
    state_ = std::make_unique<State>(threads_);
}

Reader::~Reader() {
    if (is_forked()) state_.release();  // its threads are the parent's
}

bool Reader::is_forked() const {
    return process_ != getpid();
}

void Reader::restart() {
    auto state = std::make_unique<State>(threads_);
    state_.release();  // not freed: its threads do not exist here, and a lock may be held
    state_ = std::move(state);
    process_ = getpid();
}

uint64_t Reader::size() const {
    uint64_t entries = 0;
    for (const auto& database : databases_) entries += database->entries();
    return entries;
}

const Layout& Reader::layout(size_t database, const Value& value, RecentLayouts& recent) const {
    return layout_of(databases_[database]->file(), value, spellings_, state_->layouts, recent);
}

std::string Reader::describe_error(size_t database, std::string_view key, const std::string& reason) const {
    return databases_[database]->path() + ": entry " + quoted(key) + ": " + reason;
}

void Reader::check_files() const {
    for (const auto& database : databases_) database->file().check();
}

void Reader::check_unchanged() const {
    for (const auto& database : databases_) database->check_unchanged();
}

}  // namespace rsdnet
