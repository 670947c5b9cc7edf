// Counts the calls of malloc and its like in a process: LD_PRELOAD=allocations.so. C++'s new calls malloc.
#define _GNU_SOURCE
#include <errno.h>
#include <stdatomic.h>
#include <stddef.h>

// glibc's own, which stand below the names that are taken here.
void* __libc_malloc(size_t);
void* __libc_calloc(size_t, size_t);
void* __libc_realloc(void*, size_t);
void* __libc_memalign(size_t, size_t);

static atomic_ulong calls;

unsigned long allocations(void) { return atomic_load(&calls); }

static void count(void) { atomic_fetch_add_explicit(&calls, 1, memory_order_relaxed); }

void* malloc(size_t bytes) {
    count();
    return __libc_malloc(bytes);
}

void* calloc(size_t items, size_t bytes) {
    count();
    return __libc_calloc(items, bytes);
}

void* realloc(void* block, size_t bytes) {
    count();
    return __libc_realloc(block, bytes);
}

void* memalign(size_t alignment, size_t bytes) {
    count();
    return __libc_memalign(alignment, bytes);
}

void* aligned_alloc(size_t alignment, size_t bytes) {
    count();
    return __libc_memalign(alignment, bytes);
}

int posix_memalign(void** block, size_t alignment, size_t bytes) {
    count();
    *block = __libc_memalign(alignment, bytes);
    return *block ? 0 : ENOMEM;
}
