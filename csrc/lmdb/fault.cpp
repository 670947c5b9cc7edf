#include "lmdb/fault.hpp"

#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <mutex>

namespace rsdnet {
namespace {

constexpr size_t kRegions = 1024;
Region regions[kRegions];
std::mutex claims;  // of a region, and of the handler
struct sigaction earlier{};
uintptr_t page_bytes = 4096;

void pass_on(int signal, siginfo_t* info, void* context) {
    if ((earlier.sa_flags & SA_SIGINFO) && earlier.sa_sigaction) {
        earlier.sa_sigaction(signal, info, context);
    } else if (earlier.sa_handler != SIG_DFL && earlier.sa_handler != SIG_IGN && earlier.sa_handler) {
        earlier.sa_handler(signal);
    } else {
        ::signal(signal, SIG_DFL);  // the instruction faults again, and the process ends as it would have
    }
}

}  // namespace

// Async-signal-safe: atomics without locks, and one system call.
bool answer_fault(uintptr_t address) {
    const uintptr_t page = address / page_bytes * page_bytes;
    for (Region& region : regions) {
        const uintptr_t begin = region.begin_.load(std::memory_order_acquire);
        if (begin == 0 || address < begin || address >= region.end_.load(std::memory_order_acquire)) continue;
        // Noted before the zeros can be seen: no thread reads them without learning of it.
        const uint32_t index = region.faults_.fetch_add(1, std::memory_order_acq_rel);
        if (index < Region::kKept) region.pages_[index].store(page, std::memory_order_release);
        return mmap(reinterpret_cast<void*>(page), page_bytes, PROT_READ,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != MAP_FAILED;
    }
    return false;
}

namespace {

void on_fault(int signal, siginfo_t* info, void* context) {
    const int error = errno;
    if (!answer_fault(reinterpret_cast<uintptr_t>(info->si_addr))) pass_on(signal, info, context);
    errno = error;
}

}  // namespace

bool Region::is_hit(const uint8_t* begin, uint64_t bytes) const {
    const uint32_t count = faults_.load(std::memory_order_acquire);
    if (count > kKept) return true;
    const auto first = reinterpret_cast<uintptr_t>(begin);
    for (uint32_t i = 0; i < count; ++i) {
        const uintptr_t page = pages_[i].load(std::memory_order_acquire);
        if (page == 0) return true;  // being noted just now
        if (page < first + bytes && first < page + page_bytes) return true;
    }
    return false;
}

Region* watch(const void* begin, uint64_t bytes) {
    arm_fault_handler();
    const std::lock_guard<std::mutex> lock(claims);
    for (Region& region : regions) {
        if (region.begin_.load() != 0) continue;
        for (auto& page : region.pages_) page.store(0);
        region.faults_.store(0);
        region.end_.store(reinterpret_cast<uintptr_t>(begin) + bytes);
        region.begin_.store(reinterpret_cast<uintptr_t>(begin));
        return &region;
    }
    return nullptr;
}

void unwatch(Region* region) {
    if (region) region->begin_.store(0);
}

void arm_fault_handler() {
    const std::lock_guard<std::mutex> lock(claims);
    struct sigaction now{};
    if (sigaction(SIGBUS, nullptr, &now) != 0) return;
    if ((now.sa_flags & SA_SIGINFO) && now.sa_sigaction == &on_fault) return;
    page_bytes = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
    earlier = now;
    struct sigaction ours{};
    ours.sa_sigaction = &on_fault;
    ours.sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK;
    sigemptyset(&ours.sa_mask);
    sigaction(SIGBUS, &ours, nullptr);
}

}  // namespace rsdnet
