#include "reader.hpp"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "error.hpp"

namespace rsdnet {
namespace {

// Databases whose entries all differ in their headers must not fill the memory.
constexpr size_t kMostLayouts = 1024;
// Records a thread takes at once: header checks are short, copies long.
constexpr size_t kLocateChunk = 32, kCopyChunk = 8, kCheckChunk = 256;

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

const Layout* LayoutCache::find(std::string_view header) const {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = layouts_.find(header);
    return found == layouts_.end() ? nullptr : found->second.get();
}

const Layout* LayoutCache::add(std::unique_ptr<Layout>& layout) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (layouts_.size() >= kMostLayouts) return nullptr;
    const std::string_view header = layout->header;  // lives inside the layout, whose address does not change
    return layouts_.try_emplace(header, std::move(layout)).first->second.get();
}

Reader::Reader(std::vector<std::string> paths, Spellings spellings, int threads)
    : paths_(std::move(paths)), spellings_(std::move(spellings)), threads_(threads), process_(getpid()) {
    if (threads_ <= 0) threads_ = usable_cores();
    open();
}

Reader::~Reader() {
    if (is_forked()) state_.release();  // its threads and databases are the parent's
}

void Reader::open() {
    auto state = std::make_unique<State>(threads_);
    for (const std::string& path : paths_)
        state->databases.push_back(std::make_unique<Environment>(data_file(path)));
    state_ = std::move(state);
}

bool Reader::is_forked() const {
    return process_ != getpid();
}

void Reader::reopen() {
    // The inherited state is not freed: its threads do not exist here, a lock may be held, and LMDB forbids
    // it. Its maps stay readable, so that entries still point to their values; the file must be the same,
    // though.
    State* const inherited = state_.release();
    try {
        open();
        for (size_t i = 0; i < paths_.size(); ++i) {
            if (state_->databases[i]->transaction() != inherited->databases[i]->transaction()) {
                throw Error(database(i).path() +
                            ": was written to while it was open; open it when the writer has finished");
            }
        }
    } catch (...) {
        state_.reset(inherited);  // so that the next call tries again
        throw;
    }
    process_ = getpid();
}

uint64_t Reader::size() const {
    uint64_t entries = 0;
    for (const auto& database : state_->databases) entries += database->entries();
    return entries;
}

bool Reader::find(std::string_view key, int64_t database, Entry* entry) {
    if (database >= 0) {
        entry->database = static_cast<uint16_t>(database);
        return this->database(static_cast<size_t>(database)).find(key, &entry->item);
    }
    bool found = false;
    for (size_t i = 0; i < databases(); ++i) {
        Item item{};
        if (!this->database(i).find(key, &item)) continue;
        if (found) {
            throw Error(this->database(i).path() + ": entry " + quoted(key) + " is also in " +
                        this->database(entry->database).path() + "; say which database is meant");
        }
        *entry = {item, static_cast<uint16_t>(i)};
        found = true;
    }
    return found;
}

size_t Reader::slot_of(const char* key) const {
    const size_t mask = slots_.size() - 1;
    size_t slot = (reinterpret_cast<uintptr_t>(key) * 0x9E3779B97F4A7C15u) >> 20 & mask;  // Fibonacci hashing
    while (slots_[slot] >= 0 && entries_[static_cast<size_t>(slots_[slot])].item.key != key)
        slot = (slot + 1) & mask;
    return slot;
}

void Reader::grow_slots() {
    if (2 * (entries_.size() + 1) <= slots_.size()) return;
    slots_.assign(std::max<size_t>(1024, 2 * slots_.size()), -1);
    for (size_t i = 0; i < entries_.size(); ++i)
        slots_[slot_of(entries_[i].item.key)] = static_cast<int64_t>(i);
}

void Reader::register_entries(const std::vector<Entry>& found, int64_t* handles) {
    for (const Entry& entry : found) {
        grow_slots();
        int64_t& handle = slots_[slot_of(entry.item.key)];
        if (handle < 0) {
            handle = static_cast<int64_t>(entries_.size());
            entries_.push_back(entry);
        }
        *handles++ = handle;
    }
}

const Layout& Reader::layout_of(const Entry& entry, RecentLayouts& recent) {
    const uint8_t* const value = entry.item.value;
    const uint64_t size = entry.item.value_bytes;
    const std::string_view header = header_of(value, size);
    const uint64_t payload = size - kLengthBytes - header.size();
    for (const Layout* layout : recent.layouts) {
        if (layout && layout->payload == payload && layout->header == header) return *layout;
    }
    const Layout* layout = state_->layouts.find(header);
    if (!layout) {
        auto parsed = std::make_unique<Layout>(parse_layout(header, payload, spellings_));
        layout = state_->layouts.add(parsed);
        if (!layout) {
            recent.own = std::move(parsed);
            return *recent.own;
        }
    }
    if (layout->payload != payload) {  // the same header in front of fewer or more bytes
        throw Error("its payload has " + std::to_string(payload) + " bytes; its header describes " +
                    std::to_string(layout->payload));
    }
    recent.layouts[recent.oldest] = layout;
    recent.oldest = (recent.oldest + 1) % RecentLayouts::kCount;
    return *layout;
}

std::string Reader::describe_error(const Entry& entry, const std::string& reason) const {
    return state_->databases[entry.database]->path() + ": entry " +
           quoted({entry.item.key, entry.item.key_bytes}) + ": " + reason;
}

void Reader::check_sizes() const {
    for (const auto& database : state_->databases) database->check_size();
}

void Reader::check_unchanged() const {
    for (const auto& database : state_->databases) database->check_unchanged();
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
    if (band < 0 || static_cast<uint64_t>(band) >= spellings_.size()) {
        throw Error("band id " + std::to_string(band) + " is out of range (the reader knows " +
                    std::to_string(spellings_.size()) + " bands)");
    }
    try {
        const Layout& layout = layout_of(entry, recent);
        const int32_t index = layout.by_band[static_cast<size_t>(band)];
        if (index < 0) {
            const auto& names = spellings_[static_cast<size_t>(band)];
            throw Error("it has no band " + (names.empty() ? std::to_string(band) : printable(names[0])) +
                        " (it has " + list_tensors(layout) + ")");
        }
        const Tensor& tensor = layout.tensors[static_cast<size_t>(index)];
        const std::string_view name = tensor.name;
        if (tensor.dtype->gather < 0) {
            throw Error("band " + printable(name) + " is " + tensor.dtype->name +
                        "; views are made of uint8, int16, uint16, float16 and float32");
        }
        if (tensor.shape.size() != 2 || tensor.begin == tensor.end) {
            throw Error("band " + printable(name) + " is no image of (height, width)");
        }
        const uint8_t* const payload = entry.item.value + kLengthBytes + layout.header.size();
        return {payload + tensor.begin, tensor.end - tensor.begin, static_cast<int64_t>(tensor.shape[0]),
                static_cast<int64_t>(tensor.shape[1]), tensor.dtype->gather};
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
        offset = (end + kAlignment - 1) / kAlignment * kAlignment;
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
            std::memcpy(out + records[kRecordFields * static_cast<int64_t>(i)], state.sources[i].data,
                        state.sources[i].bytes);
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
