#include "read/survey.hpp"

#include <algorithm>
#include <tuple>

#include "error.hpp"

namespace rsdnet {
namespace {

constexpr uint64_t kBlock = 1 << 20;  // bytes read at once
constexpr uint64_t kPage = 4096;      // asked for ahead of a header
constexpr uint64_t kMostAsked = 8 << 20;
// Entries that a thread takes at once, and how many such takes a thread the disk works ahead.
constexpr size_t kHeaderChunk = 64, kWholeChunk = 8, kTakesAhead = 2;

std::vector<Survey::Column> columns_of(const Layout& layout) {
    std::vector<Survey::Column> columns;
    for (const Tensor& tensor : layout.tensors)
        columns.push_back({tensor.name, tensor.dtype->name, tensor.shape});
    return columns;
}

// The same for two layouts only if their columns are: names and extents end where they say.
std::string text_of(const std::vector<Survey::Column>& columns) {
    std::string text;
    for (const Survey::Column& column : columns) {
        text += std::to_string(column.name.size()) + ':' + column.name + column.dtype;
        for (const uint64_t extent : column.shape) text += ' ' + std::to_string(extent);
        text += ';';
    }
    return text;
}

}  // namespace

Survey::Survey(const Reader& reader, int64_t database, bool whole) : whole_(whole) {
    for (size_t d = 0; d < reader.databases(); ++d) {
        if (database >= 0 && static_cast<size_t>(database) != d) continue;
        const size_t first = entries_.size();
        for (Entry& entry : reader.database(d).list()) entries_.push_back({d, std::move(entry)});
        std::sort(
            entries_.begin() + static_cast<std::ptrdiff_t>(first), entries_.end(),
            [](const Listed& a, const Listed& b) { return a.entry.value.offset < b.entry.value.offset; });
    }
}

uint64_t Survey::bytes() const {
    uint64_t sum = 0;
    for (const Found& found : found_) sum += found.bytes;
    return sum;
}

uint64_t Survey::payload() const {
    uint64_t sum = 0;
    for (const Found& found : found_) sum += found.payload;
    return sum;
}

uint64_t Survey::unlisted() const {
    uint64_t sum = 0;
    for (const Found& found : found_) sum += found.unlisted;
    return sum;
}

uint64_t Survey::advance(Reader& reader, uint64_t count) {
    const size_t begin = done_, end = begin + static_cast<size_t>(std::min(count, total() - done_));
    const size_t chunk = whole_ ? kWholeChunk : kHeaderChunk;
    Pool& pool = reader.pool();
    found_.resize(std::max(found_.size(), static_cast<size_t>(pool.threads())));
    const size_t ahead = kTakesAhead * chunk * static_cast<size_t>(pool.threads());
    if (begin == 0) ask_ahead(reader, 0, std::min<size_t>(ahead, total()));
    pool.run(end - begin, chunk, [&](int worker, size_t first, size_t last) {
        Found& found = found_[static_cast<size_t>(worker)];
        ask_ahead(reader, std::min<size_t>(begin + first + ahead, total()),
                  std::min<size_t>(begin + last + ahead, total()));
        for (size_t i = begin + first; i < begin + last; ++i)
            look(reader, entries_[i], reader.recent(worker), found);
    });
    done_ = end;
    reader.check_unchanged();
    return done_;
}

// Entries follow each other on disk: so the kernel reads on while threads look at what came before.
void Survey::ask_ahead(const Reader& reader, size_t begin, size_t end) const {
    for (size_t i = begin; i < end; ++i) {
        const auto& [database, entry] = entries_[i];
        const uint64_t bytes = std::min<uint64_t>(entry.value.bytes, whole_ ? kMostAsked : kPage);
        reader.database(database).file().ask_ahead(entry.value.offset, bytes);
    }
}

void Survey::look(const Reader& reader, const Listed& listed, RecentLayouts& recent, Found& found) const {
    const auto& [database, entry] = listed;
    found.bytes += entry.value.bytes;
    try {
        const Layout& layout = reader.layout(database, entry.value, recent);
        const bool is_cached = &layout != recent.own.get();
        if (whole_) read_whole(reader.database(database).file(), entry.value, found);
        count(layout, is_cached, found);
    } catch (const Error& error) {
        found.damaged.push_back({database, entry.key, error.what()});
    }
}

void Survey::read_whole(const File& file, const Value& value, Found& found) const {
    found.block.resize(kBlock);
    for (uint64_t at = 0; at < value.bytes; at += kBlock)
        file.read(value.offset + at, std::min(kBlock, value.bytes - at), found.block.data());
}

void Survey::count(const Layout& layout, bool is_cached, Found& found) const {
    found.payload += layout.payload;
    if (is_cached) {
        ++found.cached[&layout];
        return;
    }
    const std::vector<Column> columns = columns_of(layout);
    const std::string text = text_of(columns);
    const auto known = found.others.find(text);
    if (known != found.others.end()) {
        ++known->second.entries;
    } else if (found.others.size() < kMostSchemas) {
        found.others.emplace(text, Schema{columns, 1});
    } else {
        ++found.unlisted;
    }
}

std::vector<Survey::Damage> Survey::damaged() const {
    std::vector<Damage> all;
    for (const Found& found : found_) all.insert(all.end(), found.damaged.begin(), found.damaged.end());
    std::sort(all.begin(), all.end(), [](const Damage& a, const Damage& b) {
        return std::tie(a.database, a.key) < std::tie(b.database, b.key);
    });
    return all;
}

std::vector<Survey::Schema> Survey::schemas() const {
    std::unordered_map<std::string, Schema> merged;
    const auto add = [&](const std::vector<Column>& columns, uint64_t entries) {
        merged.try_emplace(text_of(columns), Schema{columns, 0}).first->second.entries += entries;
    };
    for (const Found& found : found_) {
        for (const auto& [layout, entries] : found.cached) add(columns_of(*layout), entries);
        for (const auto& [text, schema] : found.others) add(schema.columns, schema.entries);
    }
    std::vector<std::pair<std::string, Schema>> named(merged.begin(), merged.end());
    std::sort(named.begin(), named.end(), [](const auto& a, const auto& b) {
        if (a.second.entries != b.second.entries) return a.second.entries > b.second.entries;
        return a.first < b.first;
    });
    std::vector<Schema> all;
    for (auto& [text, schema] : named) all.push_back(std::move(schema));
    return all;
}

}  // namespace rsdnet
