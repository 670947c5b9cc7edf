#include "read/pool.hpp"

#include <sched.h>
#include <signal.h>

#include <algorithm>
#include <system_error>

namespace rsdnet {

int usable_cores() {
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof(set), &set) == 0) return std::max(1, CPU_COUNT(&set));
    return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

SignalsBlocked::SignalsBlocked() {
    sigset_t mask;
    sigfillset(&mask);
    for (const int own : {SIGBUS, SIGSEGV, SIGILL, SIGFPE, SIGABRT, SIGTRAP, SIGSYS}) sigdelset(&mask, own);
    pthread_sigmask(SIG_SETMASK, &mask, &before_);
}

SignalsBlocked::~SignalsBlocked() {
    pthread_sigmask(SIG_SETMASK, &before_, nullptr);
}

Pool::Pool(int threads) {
    const SignalsBlocked blocked;
    workers_.reserve(static_cast<size_t>(std::max(0, threads - 1)));
    try {
        for (int worker = 1; worker < threads; ++worker)
            workers_.emplace_back([this, worker] { serve(worker); });
    } catch (const std::system_error&) {
        // A limit on threads: go on with those that started.
    }
}

Pool::~Pool() {
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        stop_ = true;
    }
    wake_.notify_all();
    for (auto& worker : workers_) worker.join();
}

void Pool::work(Job& job, int worker) {
    for (;;) {
        const size_t begin = job.next.fetch_add(job.chunk);
        // Chunks are handed out in order: all below a failed one have been taken, so the lowest error is
        // always found.
        if (begin >= job.count || begin > job.failed.load()) return;
        try {
            job.call(job.context, worker, begin, std::min(begin + job.chunk, job.count));
        } catch (...) {
            const std::lock_guard<std::mutex> lock(job.error_mutex);
            if (begin < job.failed.load()) {
                job.failed.store(begin);
                job.error = std::current_exception();
            }
        }
    }
}

void Pool::run_job(Job& job) {
    const size_t chunks = (job.count + job.chunk - 1) / job.chunk;
    const size_t helpers = chunks > 1 ? std::min(workers_.size(), chunks - 1) : 0;
    if (helpers > 0) {
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            job_ = &job;
            tickets_ = helpers;
        }
        for (size_t i = 0; i < helpers; ++i) wake_.notify_one();
    }
    work(job, 0);
    if (helpers > 0) {
        std::unique_lock<std::mutex> lock(mutex_);
        tickets_ = 0;  // who has not joined by now need not
        done_.wait(lock, [this] { return active_ == 0; });
        job_ = nullptr;
    }
    if (job.error) std::rethrow_exception(job.error);
}

void Pool::serve(int worker) {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
        wake_.wait(lock, [this] { return stop_ || tickets_ > 0; });
        if (stop_) return;
        --tickets_;
        ++active_;
        Job& job = *job_;
        lock.unlock();
        work(job, worker);
        lock.lock();
        if (--active_ == 0) done_.notify_one();
    }
}

}  // namespace rsdnet
