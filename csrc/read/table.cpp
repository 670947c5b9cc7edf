#include "read/table.hpp"

#include <algorithm>
#include <cstring>
#include <tuple>

#include "error.hpp"

namespace rsdnet {
namespace {

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

// Keeps the place of a value and, if it is new, its layout.
Table::Place Table::register_value(bool sar, uint32_t sample, const Entry& entry, const Layout& layout) {
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
        own_bytes_[sar][sample] = entry.bytes;
    } else if (images_[sar][index].empty()) {
        images_[sar][index] = images_of(layout, sar);
    }
    return entry.offset << 16 | index;
}

// The entry of a key; else why there is none.
std::string Table::look_up(size_t database, bool sar, const std::optional<std::string>& key,
                           Entry& entry) const {
    if (!key) return std::string("it has no ") + (sar ? "sar" : "ms") + " entry";
    if (reader_.find(*key, static_cast<int64_t>(database), &entry)) return {};
    return "key " + quoted(*key) + " of the catalog is not in " + reader_.paths()[database];
}

// Nothing if views can be made of an entry; else why not.
std::string Table::check_header(bool sar, const Entry& entry, RecentLayouts& recent) const {
    try {
        images_of(layout_of(reader_.database(entry.database), entry.offset, entry.bytes, reader_.spellings(),
                            reader_.layouts(), recent),
                  sar);
    } catch (const FileError&) {
        throw;
    } catch (const Error& error) {
        return reader_.describe_error(entry, error.what());
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
        Entry entries[2];
        std::string fault;
    };
    std::vector<Found> found(count);
    const Keys* const keys[2] = {&ms, &sar};
    reader_.pool().run(count, kCheckChunk, [&](int worker, size_t begin, size_t end) {
        constexpr uint64_t kHeader = 1024;  // bytes asked of the disk: the first page, mostly
        const File& file = reader_.database(database).file();
        for (const bool is_sar : {false, true}) {
            if (!shows(is_sar)) continue;
            for (size_t i = begin; i < end; ++i) {
                if (found[i].fault.empty())
                    found[i].fault = look_up(database, is_sar, (*keys[is_sar])[i], found[i].entries[is_sar]);
            }
            // On a cold disk one header after the other would wait for it each time.
            const auto sound = [&](size_t i) { return found[i].fault.empty(); };
            const Entry* const middle =
                sound((begin + end) / 2) ? &found[(begin + end) / 2].entries[is_sar] : nullptr;
            if (!middle || !file.is_cached(middle->offset, 1)) {
                for (size_t i = begin; i < end; ++i) {
                    const Entry& entry = found[i].entries[is_sar];
                    if (sound(i)) file.ask_ahead(entry.offset, std::min<uint64_t>(entry.bytes, kHeader));
                }
            }
            for (size_t i = begin; i < end; ++i) {
                if (sound(i))
                    found[i].fault = check_header(is_sar, found[i].entries[is_sar], reader_.recent(worker));
            }
        }
    });
    reader_.check_unchanged();
    Faults faults;
    for (size_t i = 0; i < count; ++i) {
        if (found[i].fault.empty()) {
            append(database, static_cast<uint32_t>(rows[i]), found[i].entries);
        } else {
            faults.emplace_back(i, std::move(found[i].fault));
        }
    }
    return faults;
}

// Adds one sample, or nothing if its headers have changed since they were checked.
void Table::append(size_t database, uint32_t row, const Entry (&entries)[2]) {
    const auto sample = static_cast<uint32_t>(samples_.size());
    Sample made{{0, 0}, row, 0};
    for (const bool sar : {false, true}) {
        if (!shows(sar)) continue;
        const Entry& entry = entries[sar];
        const Layout& layout = layout_of(reader_.database(database), entry.offset, entry.bytes,
                                         reader_.spellings(), reader_.layouts(), reader_.recent(0));
        made.places[sar] = register_value(sar, sample, entry, layout);
    }
    samples_.push_back(made);
    ++counts_[database];
    for (size_t d = database + 1; d < first_.size(); ++d) ++first_[d];
}

size_t Table::database_of(uint32_t sample) const {
    const auto after = std::upper_bound(first_.begin(), first_.end(), uint64_t{sample});
    auto database = static_cast<size_t>(after - first_.begin()) - 1;
    return database;
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

void Table::fail(uint32_t sample, bool sar, const std::string& reason) const {
    const size_t index = database_of(sample);
    const Database& database = reader_.database(index);
    for (const Item& item : database.items()) {  // slow, and rare
        if (item.offset == offset_of(samples_[sample].places[sar])) {
            throw Error(database.path() + ": entry " + quoted(item.name()) + ": " + reason);
        }
    }
    throw Error(database.path() + ": sample " + std::to_string(samples_[sample].row) + ": " + reason);
}

// The bands of a sample's patch, by index in the pool.
const std::vector<Image>& Table::images(uint32_t sample, bool sar, Scratch& scratch) const {
    const Place place = samples_[sample].places[sar];
    if (layout_of_place(place) != kOwnLayout) return images_[sar][layout_of_place(place)];
    const uint32_t bytes = own_bytes_[sar].at(sample);
    scratch.own = images_of(layout_of(reader_.database(database_of(sample)), offset_of(place), bytes,
                                      reader_.spellings(), reader_.layouts(), scratch.recent),
                            sar);
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
            at = offset_of(samples_[sample].places[sar]) + image.at;
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
    const Place place = samples_[sample].places[sar];
    if (layout_of_place(place) == kOwnLayout) return;  // parsed at each reading
    const Database& database = reader_.database(database_of(sample));
    const std::string& prefix = layouts_[layout_of_place(place)]->prefix;
    if (!database.begins_with(offset_of(place), prefix, scratch.recent.scratch)) {
        throw Error("its header is not the one that was checked when the database was opened");
    }
}

void Table::copy(uint32_t sample, const int64_t* records, size_t count, uint8_t* out, Scratch& scratch,
                 Stores stores) const {
    if (is_elsewhere()) return;
    bool checked[2] = {kept_, kept_};
    bool sar = false;
    const Database& database = reader_.database(database_of(sample));
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
            const uint64_t value = offset_of(samples_[sample].places[sar]);
            if (kept_) {
                copy_block(out + records[0], arena_ + value + image.at, image.bytes, stores);
            } else {
                database.read(value, image.at, image.bytes, out + records[0], stores);
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

void Table::prefetch_values(uint32_t sample) const {
    const File& file = reader_.database(database_of(sample)).file();
    if (kept_ || file.access() == Access::kPread) return;
    constexpr size_t kLine = 64, kSmall = 2048;  // of larger values the bands are copied in long runs
    for (const bool sar : {false, true}) {
        const Place place = samples_[sample].places[sar];
        if (!shows(sar) || layout_of_place(place) == kOwnLayout) continue;
        const uint8_t* const value = file.data() + offset_of(place);
        const Layout& layout = *layouts_[layout_of_place(place)];
        const size_t bytes = layout.value_bytes() <= kSmall ? layout.value_bytes() : layout.prefix.size();
        for (size_t at = 0; at < bytes; at += kLine) __builtin_prefetch(value + at);
    }
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
        const uint64_t value = offset_of(samples_[sample].places[sar]);
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
    return reader_.database(database_of(sample))
        .file()
        .is_cached(offset_of(samples_[sample].places[sar]) + image.at, image.bytes);
}

void Table::check_unchanged() const {
    if (!kept_) reader_.check_unchanged();
}

}  // namespace rsdnet
