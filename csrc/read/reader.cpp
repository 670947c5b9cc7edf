#include "read/reader.hpp"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "error.hpp"

namespace rsdnet {
namespace {

// The data file that a path means.
std::string data_file(const std::string& path) {
    struct stat status{};
    if (stat(path.c_str(), &status) != 0) {
        throw Error(path + ": " + std::strerror(errno) + "; give a folder that holds data.mdb");
    }
    if (!S_ISDIR(status.st_mode)) return path;
    std::string file = path + (path.back() == '/' ? "" : "/") + "data.mdb";
    if (stat(file.c_str(), &status) != 0) {
        throw Error(path + ": holds no data.mdb; give a folder that rico-hdl or rsdnet.ingest wrote");
    }
    return file;
}

}  // namespace

Reader::Reader(std::vector<std::string> paths, Spellings spellings, int threads, Access access)
    : paths_(std::move(paths)),
      spellings_(std::move(spellings)),
      threads_(threads > 0 ? threads : usable_cores()),
      access_(access),
      process_(getpid()) {
    for (const std::string& path : paths_)
        databases_.push_back(std::make_unique<Database>(data_file(path), access_));
    state_ = std::make_unique<State>(threads_);
}

Reader::~Reader() {
    if (is_forked()) state_.release();  // its threads are the parent's
}

bool Reader::is_forked() const {
    return process_ != getpid();
}

void Reader::restart() {
    auto state = std::make_unique<State>(threads_);
    state_.release();  // not freed: its threads do not exist here, and a lock may be held
    state_ = std::move(state);
    process_ = getpid();
}

uint64_t Reader::size() const {
    uint64_t entries = 0;
    for (const auto& database : databases_) entries += database->entries();
    return entries;
}

bool Reader::find(std::string_view key, int64_t database, Entry* entry) const {
    const size_t first = database < 0 ? 0 : static_cast<size_t>(database);
    const size_t last = database < 0 ? databases() : first + 1;
    bool found = false;
    for (size_t i = first; i < last; ++i) {
        Item item{};
        if (!databases_[i]->find(key, &item)) continue;
        if (found) {
            throw Error(databases_[i]->path() + ": entry " + quoted(key) + " is also in " +
                        databases_[entry->database]->path() + "; say which database is meant");
        }
        *entry = {item.offset, item.key, item.bytes, item.key_bytes, static_cast<uint16_t>(i)};
        found = true;
    }
    return found;
}

size_t Reader::slot_of(const char* key) const {
    const size_t mask = slots_.size() - 1;
    size_t slot = (reinterpret_cast<uintptr_t>(key) * 0x9E3779B97F4A7C15u) >> 20 & mask;  // Fibonacci hashing
    while (slots_[slot] >= 0 && entries_[static_cast<size_t>(slots_[slot])].key != key)
        slot = (slot + 1) & mask;
    return slot;
}

void Reader::grow_slots() {
    if (2 * (entries_.size() + 1) <= slots_.size()) return;
    slots_.assign(std::max<size_t>(1024, 2 * slots_.size()), -1);
    for (size_t i = 0; i < entries_.size(); ++i) slots_[slot_of(entries_[i].key)] = static_cast<int64_t>(i);
}

void Reader::register_entries(const std::vector<Entry>& found, int64_t* handles) {
    for (const Entry& entry : found) {
        grow_slots();
        int64_t& handle = slots_[slot_of(entry.key)];
        if (handle < 0) {
            handle = static_cast<int64_t>(entries_.size());
            entries_.push_back(entry);
        }
        *handles++ = handle;
    }
}

std::string Reader::describe_error(const Entry& entry, const std::string& reason) const {
    return databases_[entry.database]->path() + ": entry " + quoted(entry.name()) + ": " + reason;
}

void Reader::check_files() const {
    for (const auto& database : databases_) database->file().check();
}

void Reader::check_unchanged() const {
    for (const auto& database : databases_) database->check_unchanged();
}

const Entry& Reader::entry_at(int64_t handle) const {
    if (handle < 0 || static_cast<uint64_t>(handle) >= entries_.size()) {
        throw Error("entry " + std::to_string(handle) + " is not registered (" +
                    std::to_string(entries_.size()) + " are); take handles from entries()");
    }
    return entries_[static_cast<size_t>(handle)];
}

Source Reader::locate(int64_t handle, int64_t band, RecentLayouts& recent) {
    const Entry& entry = entry_at(handle);
    const Database& database = *databases_[entry.database];
    try {
        const Layout& layout =
            layout_of(database, entry.offset, entry.bytes, spellings_, state_->layouts, recent);
        const Tensor& tensor = image_of(layout, band, spellings_);
        return {&database,
                entry.offset,
                layout.prefix.size() + tensor.begin,
                tensor.end - tensor.begin,
                static_cast<int64_t>(tensor.shape[0]),
                static_cast<int64_t>(tensor.shape[1]),
                tensor.dtype->gather};
    } catch (const Error& error) {
        throw Error(describe_error(entry, error.what()));
    }
}

// Lays the bands out one after the other and writes the records. Returns the bytes they take.
uint64_t Reader::place(const int64_t* bands, size_t count, int64_t* records) const {
    uint64_t offset = 0, end = 0;
    for (size_t i = 0; i < count; ++i) {
        const Source& source = state_->sources[i];
        const int64_t record[kRecordFields] = {static_cast<int64_t>(offset), source.dtype, source.height,
                                               source.width, bands[i]};
        std::memcpy(records + kRecordFields * static_cast<int64_t>(i), record, sizeof(record));
        end = offset + source.bytes;
        offset = aligned(end);
    }
    return end;
}

uint64_t Reader::gather(const int64_t* entries, const int64_t* bands, size_t count, uint8_t* out,
                        uint64_t capacity, int64_t* records) {
    State& state = *state_;
    state.sources.resize(count);
    state.pool.run(count, kLocateChunk, [&](int worker, size_t begin, size_t end) {
        RecentLayouts& recent = state.recent[static_cast<size_t>(worker)];
        for (size_t i = begin; i < end; ++i) state.sources[i] = locate(entries[i], bands[i], recent);
    });
    const uint64_t needed = place(bands, count, records);
    if (needed > capacity) return needed;
    state.pool.run(count, kCopyChunk, [&](int, size_t begin, size_t end) {
        for (size_t i = begin; i < end; ++i) {
            const Source& source = state.sources[i];
            uint8_t* const to = out + records[kRecordFields * static_cast<int64_t>(i)];
            try {
                source.database->read(source.value, source.at, source.bytes, to);
            } catch (const FileError&) {
                throw;
            } catch (const Error& error) {
                throw Error(describe_error(entry_at(entries[i]), error.what()));
            }
        }
    });
    check_unchanged();
    return needed;
}

std::vector<std::pair<size_t, std::string>> Reader::check(const int64_t* entries, const int64_t* bands,
                                                          size_t count) {
    State& state = *state_;
    std::vector<std::vector<std::pair<size_t, std::string>>> found(state.recent.size());
    state.pool.run(count, kCheckChunk, [&](int worker, size_t begin, size_t end) {
        const auto index = static_cast<size_t>(worker);
        for (size_t i = begin; i < end; ++i) {
            try {
                locate(entries[i], bands[i], state.recent[index]);
            } catch (const Error& error) {
                found[index].emplace_back(i, error.what());
            }
        }
    });
    check_unchanged();
    std::vector<std::pair<size_t, std::string>> all;
    for (auto& part : found) all.insert(all.end(), part.begin(), part.end());
    std::sort(all.begin(), all.end());
    return all;
}

}  // namespace rsdnet
