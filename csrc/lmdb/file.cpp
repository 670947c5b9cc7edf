#include "lmdb/file.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "error.hpp"

namespace rsdnet {

File::File(std::string path) : path_(std::move(path)) {
    descriptor_ = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC);
    if (descriptor_ < 0) throw Error(path_ + ": cannot be opened: " + std::strerror(errno));
    struct stat status{};
    if (fstat(descriptor_, &status) != 0 || !S_ISREG(status.st_mode)) {
        ::close(descriptor_);
        throw Error(path_ + ": is not a regular file; give a folder that holds data.mdb");
    }
    size_ = static_cast<uint64_t>(status.st_size);
}

File::~File() {
    ::close(descriptor_);
}

void File::read(uint64_t offset, uint64_t bytes, uint8_t* out) const {
    while (bytes > 0) {
        const ssize_t got = ::pread(descriptor_, out, bytes, static_cast<off_t>(offset));
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) {
            check();
            throw Error("cannot be read from disk at byte " + std::to_string(offset) +
                        "; check the disk, then copy or ingest it again");
        }
        out += got, offset += static_cast<uint64_t>(got), bytes -= static_cast<uint64_t>(got);
    }
}

bool File::equals(uint64_t offset, std::string_view expected, std::string& scratch) const {
    scratch.resize(expected.size());
    read(offset, expected.size(), reinterpret_cast<uint8_t*>(scratch.data()));
    return scratch == expected;
}

void File::ask_ahead(uint64_t offset, uint64_t bytes) const {
    posix_fadvise(descriptor_, static_cast<off_t>(offset), static_cast<off_t>(bytes), POSIX_FADV_WILLNEED);
}

bool File::is_cached(uint64_t offset) const {
    uint8_t byte = 0;
    const iovec to{&byte, 1};
    return preadv2(descriptor_, &to, 1, static_cast<off_t>(offset), RWF_NOWAIT) == 1;
}

void File::check() const {
    struct stat status{};
    if (fstat(descriptor_, &status) != 0) {
        throw FileError(path_ + ": cannot be read any more: " + std::strerror(errno));
    }
    if (static_cast<uint64_t>(status.st_size) < size_) {
        throw FileError(path_ + ": was truncated while it was open; copy or ingest it again");
    }
    if (status.st_nlink == 0) {
        throw FileError(path_ + ": was deleted or replaced while it was open; open it again");
    }
}

}  // namespace rsdnet
