// Copies of blocks that nobody on this side reads again soon.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace rsdnet {

// How a copy is written: through the caches, or past them, for blocks that together are larger than the
// caches (a batch on its way to a GPU). Past them a core copies a fifth more, since it does not first read
// what it overwrites.
enum class Stores { kCached, kStreaming };

#if defined(__SSE2__)
inline void stream_line(uint8_t* to, const uint8_t* from) {  // 64 bytes
    const auto* const source = reinterpret_cast<const __m128i*>(from);
    auto* const target = reinterpret_cast<__m128i*>(to);
    const __m128i a = _mm_loadu_si128(source), b = _mm_loadu_si128(source + 1);
    const __m128i c = _mm_loadu_si128(source + 2), d = _mm_loadu_si128(source + 3);
    _mm_stream_si128(target, a), _mm_stream_si128(target + 1, b);
    _mm_stream_si128(target + 2, c), _mm_stream_si128(target + 3, d);
}
#endif

// memcpy to a 16-byte aligned place, past the caches. Followed by fence_stores() before another thread is
// told.
inline void copy_streaming(uint8_t* to, const uint8_t* from, size_t bytes) {
#if defined(__SSE2__)
    constexpr size_t kLine = 64, kAhead = 2048;  // bytes
    for (; bytes >= kAhead + kLine; bytes -= kLine, to += kLine, from += kLine) {
        _mm_prefetch(reinterpret_cast<const char*>(from) + kAhead, _MM_HINT_NTA);
        stream_line(to, from);
    }
    for (; bytes >= kLine; bytes -= kLine, to += kLine, from += kLine) stream_line(to, from);
#endif
    std::memcpy(to, from, bytes);
}

inline void fence_stores() {
#if defined(__SSE2__)
    _mm_sfence();
#endif
}

inline void copy_block(uint8_t* to, const uint8_t* from, size_t bytes, Stores stores) {
    if (stores == Stores::kStreaming && reinterpret_cast<uintptr_t>(to) % 16 == 0) {
        copy_streaming(to, from, bytes);
    } else {
        std::memcpy(to, from, bytes);
    }
}

}  // namespace rsdnet
