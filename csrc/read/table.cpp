#include "read/table.hpp"

#include <algorithm>
#include <cstring>
#include <tuple>

#include "error.hpp"

namespace rsdnet {
namespace {

constexpr size_t kCheckChunk = 256;   // samples whose headers a thread checks at once
constexpr size_t kMostShared = 4096;  // layouts that a table keeps; further ones are parsed at each reading

}  // namespace

Table::Table(Reader& reader, Modality modality, std::vector<int32_t> ms_pool, std::vector<int32_t> sar_pool)
    : reader_(reader),
      modality_(modality),
      pools_{std::move(ms_pool), std::move(sar_pool)},
      pool_index_(reader.spellings().size(), -1),
      counts_(reader.databases(), 0),
      first_(reader.databases(), 0) {
    for (const bool sar : {false, true}) {
        if (shows(sar) && pools_[sar].empty())
            throw Error(std::string("no ") + (sar ? "sar" : "ms") + " bands");
        for (size_t i = 0; i < pools_[sar].size() && shows(sar); ++i) {
            const int32_t band = pools_[sar][i];
            if (band < 0 || static_cast<size_t>(band) >= pool_index_.size()) {
                throw Error("band id " + std::to_string(band) + " is out of range (the reader knows " +
                            std::to_string(pool_index_.size()) + " bands)");
            }
            int32_t& index = pool_index_[static_cast<size_t>(band)];
            if (index >= 0) throw Error("band id " + std::to_string(band) + " is named twice");
            index = static_cast<int32_t>(2 * i + sar);
        }
    }
}

std::vector<Image> Table::images_of(const Layout& layout, bool sar) const {
    std::vector<Image> images;
    images.reserve(pools_[sar].size());
    for (const int32_t band : pools_[sar]) {
        const Tensor& tensor = image_of(layout, band, reader_.spellings());
        images.push_back({layout.prefix.size() + tensor.begin, tensor.end - tensor.begin,
                          static_cast<int64_t>(tensor.shape[0]), static_cast<int64_t>(tensor.shape[1]),
                          tensor.dtype->gather});
    }
    return images;
}

// A reference to a value; its layout is kept if it is new.
Table::ValueRef Table::register_value(bool sar, uint32_t sample, const Value& value, const Layout& layout) {
    const auto known = by_prefix_.find(layout.prefix);
    uint64_t index = kOwnLayout;
    if (known != by_prefix_.end() && layouts_[known->second]->payload == layout.payload) {
        index = known->second;
    } else if (known == by_prefix_.end() && layouts_.size() < kMostShared) {
        index = layouts_.size();
        layouts_.push_back(std::make_unique<Layout>(layout));
        by_prefix_.emplace(layouts_.back()->prefix, index);
        images_[0].emplace_back(), images_[1].emplace_back();
    }
    if (index == kOwnLayout) {
        own_bytes_[sar][sample] = value.bytes;
    } else if (images_[sar][index].empty()) {
        images_[sar][index] = images_of(layout, sar);
    }
    return value.offset << 16 | index;
}

// Finds a key's value; else says why there is none.
std::string Table::look_up(size_t database, bool sar, const std::optional<std::string>& key,
                           Value& value) const {
    if (!key) return std::string("it has no ") + (sar ? "sar" : "ms") + " entry";
    if (reader_.database(database).find(*key, &value)) return {};
    return "key " + quoted(*key) + " of the catalog is not in " + reader_.paths()[database];
}

// Nothing if views can be made of a value; else why not.
std::string Table::check_header(size_t database, bool sar, const std::string& key, const Value& value,
                                RecentLayouts& recent) const {
    try {
        images_of(reader_.layout(database, value, recent), sar);
    } catch (const FileError&) {
        throw;
    } catch (const Error& error) {
        return reader_.describe_error(database, key, error.what());
    }
    return {};
}

Table::Faults Table::add(size_t database, const int64_t* rows, size_t count, const Keys& ms,
                         const Keys& sar) {
    if (kept_) throw Error("samples cannot be added once they are in a cache");
    for (size_t d = database + 1; d < counts_.size(); ++d) {
        if (counts_[d] != 0) throw Error("samples must be added in the order of their databases");
    }
    for (size_t i = 0; i < count; ++i) {
        if (rows[i] < 0 || rows[i] > INT64_C(0xFFFFFFFF)) {
            throw Error("row " + std::to_string(rows[i]) + " is not in 0 to 2^32 - 1");
        }
    }
    struct Found {
        Value values[2];
        std::string fault;
    };
    std::vector<Found> found(count);
    const Keys* const keys[2] = {&ms, &sar};
    reader_.pool().run(count, kCheckChunk, [&](int worker, size_t begin, size_t end) {
        constexpr uint64_t kHeader = 1024;  // bytes asked of the disk: the first page, mostly
        const File& file = reader_.database(database).file();
        for (const bool is_sar : {false, true}) {
            if (!shows(is_sar)) continue;
            bool ahead = false;  // on a cold disk one header after the other would wait for it each time
            for (size_t i = begin; i < end; ++i) {
                auto& [values, fault] = found[i];
                if (fault.empty()) fault = look_up(database, is_sar, (*keys[is_sar])[i], values[is_sar]);
                if (!fault.empty()) continue;
                const Value& value = values[is_sar];
                ahead = ahead || !file.is_cached(value.offset);
                if (ahead) file.ask_ahead(value.offset, std::min<uint64_t>(value.bytes, kHeader));
            }
            for (size_t i = begin; i < end; ++i) {
                auto& [values, fault] = found[i];
                if (fault.empty())
                    fault = check_header(database, is_sar, *(*keys[is_sar])[i], values[is_sar],
                                         reader_.recent(worker));
            }
        }
    });
    reader_.check_unchanged();
    Faults faults;
    for (size_t i = 0; i < count; ++i) {
        if (found[i].fault.empty()) {
            append(database, static_cast<uint32_t>(rows[i]), found[i].values);
        } else {
            faults.emplace_back(i, std::move(found[i].fault));
        }
    }
    return faults;
}

// Adds one sample, or nothing if its headers have changed since they were checked.
void Table::append(size_t database, uint32_t row, const Value (&values)[2]) {
    const auto sample = static_cast<uint32_t>(samples_.size());
    Sample made{{0, 0}, row, 0};
    for (const bool sar : {false, true}) {
        if (!shows(sar)) continue;
        const Layout& layout = reader_.layout(database, values[sar], reader_.recent(0));
        made.refs[sar] = register_value(sar, sample, values[sar], layout);
    }
    samples_.push_back(made);
    ++counts_[database];
    for (size_t d = database + 1; d < first_.size(); ++d) ++first_[d];
}

size_t Table::database_of(uint32_t sample) const {
    const auto after = std::upper_bound(first_.begin(), first_.end(), uint64_t{sample});
    return static_cast<size_t>(after - first_.begin()) - 1;
}

uint64_t Table::band_bytes(bool sar) const {
    uint64_t most = 0;
    for (const auto& images : images_[sar]) {
        for (const Image& image : images) most = std::max(most, aligned(image.bytes));
    }
    Scratch scratch;
    for (const auto& own : own_bytes_[sar]) {
        for (const Image& image : this->images(own.first, sar, scratch))
            most = std::max(most, aligned(image.bytes));
    }
    return most;
}

std::pair<Table::Keys, Table::Keys> Table::keys(size_t database) const {
    std::unordered_map<uint64_t, std::string> by_offset;
    for (Entry& entry : reader_.database(database).list())
        by_offset[entry.value.offset] = std::move(entry.key);
    reader_.check_unchanged();
    Keys keys[2];
    for (const bool sar : {false, true}) {
        for (uint64_t i = 0; shows(sar) && i < counts_[database]; ++i) {
            const auto key = by_offset.find(offset_of(samples_[first_[database] + i].refs[sar]));
            if (key == by_offset.end())
                throw FileError(reader_.database(database).path() + ": has lost entries while it was open");
            keys[sar].push_back(key->second);
        }
    }
    return {std::move(keys[0]), std::move(keys[1])};
}

void Table::fail(uint32_t sample, bool sar, const std::string& reason) const {
    const size_t database = database_of(sample);
    for (const Entry& entry : reader_.database(database).list()) {  // slow, and rare
        if (entry.value.offset == offset_of(samples_[sample].refs[sar]))
            throw Error(reader_.describe_error(database, entry.key, reason));
    }
    throw Error(reader_.database(database).path() + ": sample " + std::to_string(samples_[sample].row) +
                ": " + reason);
}

// The bands of a sample's patch, by index in the pool.
const std::vector<Image>& Table::images(uint32_t sample, bool sar, Scratch& scratch) const {
    const ValueRef ref = samples_[sample].refs[sar];
    if (layout_of(ref) != kOwnLayout) return images_[sar][layout_of(ref)];
    const uint32_t bytes = own_bytes_[sar].at(sample);
    const Value value{offset_of(ref), bytes};
    scratch.own = images_of(reader_.layout(database_of(sample), value, scratch.recent), sar);
    return scratch.own;
}

std::pair<bool, size_t> Table::pool_index(int32_t band) const {
    const int32_t index = band < 0 || static_cast<size_t>(band) >= pool_index_.size()
                              ? -1
                              : pool_index_[static_cast<size_t>(band)];
    const bool sar = (index & 1) != 0;
    if (index < 0 || !shows(sar)) {
        throw Error("band id " + std::to_string(band) +
                    " is not of the bands that these samples were made for");
    }
    return {sar, static_cast<size_t>(index / 2)};
}

void Table::describe(uint32_t sample, const int32_t* bands, size_t count, uint64_t& offset, int64_t* records,
                     Scratch& scratch) const {
    for (size_t i = 0; i < count; ++i, records += kRecordFields) {
        const auto [sar, index] = pool_index(bands[i]);
        const Image& image = images(sample, sar, scratch)[index];
        uint64_t at = offset;
        if (is_elsewhere()) {
            at = offset_of(samples_[sample].refs[sar]) + image.at;
        } else {
            offset += aligned(image.bytes);
        }
        const int64_t record[kRecordFields] = {static_cast<int64_t>(at), image.dtype, image.height,
                                               image.width, bands[i]};
        std::memcpy(records, record, sizeof(record));
    }
}

// The value must begin with the bytes that its layout was parsed from.
void Table::check_prefix(uint32_t sample, bool sar, Scratch& scratch) const {
    const ValueRef ref = samples_[sample].refs[sar];
    if (layout_of(ref) == kOwnLayout) return;  // parsed at each reading
    const File& file = reader_.database(database_of(sample)).file();
    if (!file.equals(offset_of(ref), layouts_[layout_of(ref)]->prefix, scratch.recent.scratch)) {
        throw Error("its header is not the one that was checked when the database was opened");
    }
}

void Table::copy(uint32_t sample, const int64_t* records, size_t count, uint8_t* out, Scratch& scratch,
                 Stores stores) const {
    if (is_elsewhere()) return;
    bool checked[2] = {kept_, kept_};
    bool sar = false;
    const File& file = reader_.database(database_of(sample)).file();
    try {
        for (size_t i = 0; i < count; ++i, records += kRecordFields) {
            size_t index = 0;
            std::tie(sar, index) = pool_index(static_cast<int32_t>(records[4]));
            if (!checked[sar]) check_prefix(sample, sar, scratch);
            checked[sar] = true;
            const Image& image = images(sample, sar, scratch)[index];
            if (image.dtype != records[1] || image.height != records[2] || image.width != records[3]) {
                throw Error("its header changed while it was read");
            }
            const uint64_t value = offset_of(samples_[sample].refs[sar]);
            if (kept_) {
                copy_block(out + records[0], arena_ + value + image.at, image.bytes, stores);
            } else {
                file.read(value + image.at, image.bytes, out + records[0]);
            }
        }
    } catch (const FileError&) {
        throw;
    } catch (const Error& error) {
        fail(sample, sar, error.what());
    }
}

uint64_t Table::gather(const int64_t* positions, size_t count, const int32_t* bands, size_t each,
                       uint8_t* out, uint64_t capacity, int64_t* records) const {
    const size_t fields = each * kRecordFields;
    uint64_t bytes = 0;
    Scratch first;
    for (size_t i = 0; i < count; ++i) {
        if (positions[i] < 0 || static_cast<uint64_t>(positions[i]) >= size()) {
            throw Error("there is no sample " + std::to_string(positions[i]) + " (there are " +
                        std::to_string(size()) + ")");
        }
        describe(static_cast<uint32_t>(positions[i]), bands + i * each, each, bytes, records + i * fields,
                 first);
    }
    if (bytes > capacity || is_elsewhere()) return bytes;
    reader_.pool().run(count, kSamplesAtOnce, [&](int, size_t begin, size_t end) {
        Scratch scratch;
        for (size_t i = begin; i < end; ++i)
            copy(static_cast<uint32_t>(positions[i]), records + i * fields, each, out, scratch);
    });
    check_unchanged();
    return bytes;
}

size_t Table::ask_ahead(uint32_t sample, const int32_t* bands, size_t count, Scratch& scratch) const {
    if (kept_) return 0;
    constexpr uint64_t kNear = 32768;  // ranges no further apart than this are fetched as one
    const File& file = reader_.database(database_of(sample)).file();
    uint64_t begin = 0, end = 0;
    size_t asked = 0;
    bool headed[2] = {false, false};
    const auto add = [&](uint64_t first, uint64_t last) {
        if (end != 0 && first <= end + kNear && last + kNear >= begin) {
            begin = std::min(begin, first), end = std::max(end, last);
            return;
        }
        if (end != 0) file.ask_ahead(begin, end - begin), ++asked;
        begin = first, end = last;
    };
    for (size_t i = 0; i < count; ++i) {
        const auto [sar, index] = pool_index(bands[i]);
        const Image& image = images(sample, sar, scratch)[index];
        const uint64_t value = offset_of(samples_[sample].refs[sar]);
        if (!headed[sar]) add(value, value + kLengthBytes);
        headed[sar] = true;
        add(value + image.at, value + image.at + image.bytes);
    }
    if (end != 0) file.ask_ahead(begin, end - begin), ++asked;
    return asked;
}

bool Table::is_cached(uint32_t sample, int32_t band, Scratch& scratch) const {
    if (kept_) return true;
    const auto [sar, index] = pool_index(band);
    const Image& image = images(sample, sar, scratch)[index];
    const File& file = reader_.database(database_of(sample)).file();
    return file.is_cached(offset_of(samples_[sample].refs[sar]) + image.at);
}

void Table::check_unchanged() const {
    if (!kept_) reader_.check_unchanged();
}

}  // namespace rsdnet
