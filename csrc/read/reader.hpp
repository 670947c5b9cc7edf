// Several databases as one, and what reading them shares: threads and the layouts seen so far.
//
// Threads may not share it by themselves: the bindings hold its mutex and obey the rules of Python's GIL
// (python/session.hpp).
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "lmdb/database.hpp"
#include "read/layouts.hpp"
#include "read/pool.hpp"

namespace rsdnet {

class Reader {
  public:
    // `paths`: folders that hold data.mdb, or .mdb files. `threads`: 0 for all cores. Error as Database.
    Reader(std::vector<std::string> paths, Spellings spellings, int threads);
    ~Reader();
    Reader(const Reader&) = delete;
    Reader& operator=(const Reader&) = delete;

    // True in a process that was forked from the one that made the threads.
    bool is_forked() const;
    // Starts threads anew. Databases stay: a forked process may read its parent's files.
    void restart();

    std::mutex& mutex() { return state_->mutex; }
    const std::vector<std::string>& paths() const { return paths_; }
    const Spellings& spellings() const { return spellings_; }
    int threads() const { return threads_; }
    size_t databases() const { return databases_.size(); }
    uint64_t size() const;  // entries of all databases
    const Database& database(size_t index) const { return *databases_[index]; }

    Pool& pool() { return state_->pool; }
    RecentLayouts& recent(int worker) { return state_->recent[static_cast<size_t>(worker)]; }

    // The layout of a value. Error (the reason alone) if it is no sound safetensors.
    const Layout& layout(size_t database, const Value& value, RecentLayouts& recent) const;
    // "path: entry 'key': reason"
    std::string describe_error(size_t database, std::string_view key, const std::string& reason) const;
    // Error if any database has been truncated or deleted (ask before any read) or written to (after it).
    void check_files() const;
    void check_unchanged() const;

  private:
    // What belongs to one process: after a fork it is left behind as it is and made anew.
    struct State {
        explicit State(int threads) : pool(threads), recent(static_cast<size_t>(pool.threads())) {}
        std::mutex mutex;
        LayoutCache layouts;
        Pool pool;
        std::vector<RecentLayouts> recent;  // by worker
    };

    std::vector<std::string> paths_;
    Spellings spellings_;
    int threads_;
    long process_;
    std::vector<std::unique_ptr<Database>> databases_;
    std::unique_ptr<State> state_;
};

}  // namespace rsdnet
