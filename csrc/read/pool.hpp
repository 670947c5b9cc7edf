// A pool of threads that stays alive between batches. The calling thread works too.
#pragma once

#include <signal.h>

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <exception>
#include <mutex>
#include <thread>
#include <type_traits>
#include <vector>

namespace rsdnet {

// Cores this process may run on (its affinity mask, not the machine's core count).
int usable_cores();

// While it lives, threads start with signals blocked: those belong to Python's main thread. Not the ones that
// a thread causes itself (SIGSEGV and the like): blocked, they would end the process without faulthandler's
// word.
class SignalsBlocked {
  public:
    SignalsBlocked();
    ~SignalsBlocked();
    SignalsBlocked(const SignalsBlocked&) = delete;
    SignalsBlocked& operator=(const SignalsBlocked&) = delete;

  private:
    sigset_t before_;
};

class Pool {
  public:
    // `threads` counts the caller: one thread starts none. If the system refuses a thread, those it gave must
    // do.
    explicit Pool(int threads);
    ~Pool();
    Pool(const Pool&) = delete;
    Pool& operator=(const Pool&) = delete;

    int threads() const { return static_cast<int>(workers_.size()) + 1; }

    // Calls body(worker, begin, end) for chunks of [0, count) and returns when all are done; 0 <= worker <
    // threads(). If bodies throw, the error of the lowest failing chunk is rethrown, whatever the timing. Not
    // reentrant.
    template <typename Body>
    void run(size_t count, size_t chunk, Body&& body) {
        using Plain = std::remove_reference_t<Body>;
        Job job;
        job.count = count;
        job.chunk = chunk;
        job.context = &body;
        job.call = [](void* context, int worker, size_t begin, size_t end) {
            (*static_cast<Plain*>(context))(worker, begin, end);
        };
        run_job(job);
    }

  private:
    struct Job {
        size_t count = 0;
        size_t chunk = 1;
        void* context = nullptr;
        void (*call)(void*, int, size_t, size_t) = nullptr;
        std::atomic<size_t> next{0};
        std::atomic<size_t> failed{static_cast<size_t>(-1)};  // first index of the lowest chunk that failed
        std::mutex error_mutex;
        std::exception_ptr error;
    };

    void run_job(Job& job);
    static void work(Job& job, int worker);
    void serve(int worker);

    std::mutex mutex_;
    std::condition_variable wake_, done_;
    Job* job_ = nullptr;
    size_t tickets_ = 0;  // workers that may still join the job
    size_t active_ = 0;   // workers in the job
    bool stop_ = false;
    std::vector<std::thread> workers_;
};

}  // namespace rsdnet
