#include "lmdb/file.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "error.hpp"

namespace rsdnet {
namespace {

uintptr_t system_page() {
    static const auto bytes = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
    return bytes;
}

}  // namespace

File::File(std::string path, Access access) : path_(std::move(path)), access_(access) {
    descriptor_ = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC);
    if (descriptor_ < 0) throw Error(path_ + ": cannot be opened: " + std::strerror(errno));
    try {
        struct stat status{};
        if (fstat(descriptor_, &status) != 0 || !S_ISREG(status.st_mode)) {
            throw Error(path_ + ": is not a regular file; give a folder that holds data.mdb");
        }
        size_ = static_cast<uint64_t>(status.st_size);
        if (size_ == 0) return;
        if (access_ == Access::kMap) map();
        if (access_ == Access::kPread) reserve();
    } catch (...) {
        ::close(descriptor_);
        throw;
    }
}

File::~File() {
    unwatch(region_);
    if (data_) munmap(data_, size_);
    ::close(descriptor_);
}

void File::map() {
    void* const address = mmap(nullptr, size_, PROT_READ, MAP_SHARED, descriptor_, 0);
    if (address == MAP_FAILED) throw Error(path_ + ": cannot be mapped: " + std::strerror(errno));
    region_ = watch(address, size_);
    if (!region_) {  // so many databases are open that this one's faults could not be caught
        munmap(address, size_);
        access_ = Access::kPread;
        return;
    }
    madvise(address, size_, MADV_RANDOM);
    data_ = static_cast<uint8_t*>(address);
}

// Address space for the whole file, memory only for what need() fetches.
void File::reserve() {
    void* const address =
        mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (address == MAP_FAILED) throw Error(path_ + ": cannot be read: " + std::strerror(errno));
    data_ = static_cast<uint8_t*>(address);
}

void File::fail_read(uint64_t offset) const {
    check();
    throw Error("cannot be read from disk at byte " + std::to_string(offset) +
                "; check the disk, then copy or ingest it again");
}

void File::check_range(uint64_t offset, uint64_t bytes) const {
    if (region_ && region_->damaged(data_ + offset, bytes)) fail_read(offset);
}

void File::pread_all(uint64_t offset, uint64_t bytes, uint8_t* out) const {
    while (bytes > 0) {
        const ssize_t got = ::pread(descriptor_, out, bytes, static_cast<off_t>(offset));
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) fail_read(offset);
        out += got, offset += static_cast<uint64_t>(got), bytes -= static_cast<uint64_t>(got);
    }
}

void File::need(uint64_t offset, uint64_t bytes) const {
    if (access_ == Access::kPread) {
        pread_all(offset, bytes, data_ + offset);
        return;
    }
    for (uint64_t at = 0; at < bytes; at += system_page())
        static_cast<const volatile uint8_t*>(data_)[offset + at];
    check_range(offset, bytes);
}

void File::read(uint64_t offset, uint64_t bytes, uint8_t* out, Stores stores) const {
    if (access_ == Access::kPread) {
        pread_all(offset, bytes, out);
    } else {
        copy(offset, bytes, out, stores);
    }
}

void File::copy(uint64_t offset, uint64_t bytes, uint8_t* out, Stores stores) const {
    copy_block(out, data_ + offset, bytes, stores);
    check_range(offset, bytes);
}

bool File::equals(uint64_t offset, std::string_view expected, std::string& scratch) const {
    if (access_ == Access::kPread) {
        scratch.resize(expected.size());
        pread_all(offset, expected.size(), reinterpret_cast<uint8_t*>(scratch.data()));
        return scratch == expected;
    }
    if (std::memcmp(data_ + offset, expected.data(), expected.size()) == 0) return true;
    check_range(offset, expected.size());
    return false;
}

void File::ask_ahead(uint64_t offset, uint64_t bytes) const {
    if (access_ == Access::kPread) {
        posix_fadvise(descriptor_, static_cast<off_t>(offset), static_cast<off_t>(bytes),
                      POSIX_FADV_WILLNEED);
        return;
    }
    const uint64_t begin = offset / system_page() * system_page();
    madvise(data_ + begin, offset - begin + bytes, MADV_WILLNEED);
}

bool File::is_cached(uint64_t offset, uint64_t bytes) const {
    if (access_ == Access::kPread) return false;
    constexpr uint64_t kMost = 64;  // pages looked at
    const uint64_t begin = offset / system_page() * system_page();
    const uint64_t pages = std::min(kMost, (offset - begin + bytes + system_page() - 1) / system_page());
    unsigned char there[kMost];
    if (mincore(data_ + begin, pages * system_page(), there) != 0) return false;
    return std::all_of(there, there + pages, [](unsigned char page) { return (page & 1) != 0; });
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
