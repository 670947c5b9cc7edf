// Faults in a mapped file as values: no reader dies because a file was truncated or its disk failed.
//
// Reading a page of a map that its file cannot give raises SIGBUS. The handler here notes the page, puts
// zeros where the fault was and lets the reading go on; whoever read asks `damaged` afterwards and throws
// what it has read away.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace rsdnet {

// A map that is watched. All members are lock-free: the signal handler uses them.
class Region {
  public:
    // True if a page of [begin, begin + bytes) could not be read since the map was made: what was read there
    // is not the file's.
    bool damaged(const uint8_t* begin, uint64_t bytes) const {
        return faults_.load(std::memory_order_acquire) != 0 && is_hit(begin, bytes);
    }
    uint32_t faults() const { return faults_.load(std::memory_order_acquire); }

  private:
    friend Region* watch(const void* begin, uint64_t bytes);
    friend void unwatch(Region* region);
    friend bool answer_fault(uintptr_t address);

    bool is_hit(const uint8_t* begin, uint64_t bytes) const;

    static constexpr uint32_t kKept = 64;  // with more faults than these the whole map counts as damaged
    std::atomic<uintptr_t> begin_{0}, end_{0};
    std::atomic<uint32_t> faults_{0};
    std::atomic<uintptr_t> pages_[kKept] = {};
};

// Watches a map. Null if too many are watched: such a file must be read without a map.
Region* watch(const void* begin, uint64_t bytes);
// Before the map goes.
void unwatch(Region* region);

// Puts the handler in place; again where something else (PyTorch in a DataLoader's worker, say) has replaced
// it since. Faults outside watched maps go to the handler that was there before.
void arm_fault_handler();

}  // namespace rsdnet
