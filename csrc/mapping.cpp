#include "mapping.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "error.hpp"

namespace rsdnet {

Mapping::Mapping(const std::string& path) {
    const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (file < 0) throw Error(path + ": cannot be opened: " + std::strerror(errno));
    struct stat status{};
    if (fstat(file, &status) != 0 || !S_ISREG(status.st_mode)) {
        ::close(file);
        throw Error(path + ": is not a regular file; give a folder that holds data.mdb");
    }
    size_ = static_cast<uint64_t>(status.st_size);
    if (size_ > 0) {
        void* address = mmap(nullptr, size_, PROT_READ, MAP_SHARED, file, 0);
        const int error = errno;
        if (address != MAP_FAILED) {
            madvise(address, size_, MADV_RANDOM);
            data_ = static_cast<const uint8_t*>(address);
        } else {
            ::close(file);
            throw Error(path + ": cannot be mapped: " + std::strerror(error));
        }
    }
    ::close(file);
}

Mapping::~Mapping() {
    if (data_) munmap(const_cast<uint8_t*>(data_), size_);
}

}  // namespace rsdnet
