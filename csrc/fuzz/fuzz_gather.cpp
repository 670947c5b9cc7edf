// Any bytes as a database file: opened, listed, searched, surveyed, read as samples, streamed and cached;
// then the same on a file that is changed and cut under the reader. Nothing but Error may come out, no byte
// may be read or written out of bounds, and what is read is what the file holds.
#include <pthread.h>

#include <algorithm>
#include <memory>
#include <numeric>

#include "fuzz/fuzz.hpp"
#include "read/reader.hpp"
#include "read/stream.hpp"
#include "read/survey.hpp"
#include "tests/databases.hpp"

namespace rsdnet::fuzz {
namespace {

constexpr size_t kMostEntries = 12, kMostBytes = 1 << 16;  // so that an input takes about a millisecond

// AddressSanitizer clears the shadow of a thread's whole stack when it starts: with small ones, and far more
// inputs a second.
const int small_stacks = [] {
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, 1 << 18);
    return pthread_setattr_default_np(&attributes);
}();

// Calls `body`; true if it threw no Error.
template <typename Body>
bool attempt(const std::string& path, Body&& body) {
    try {
        body();
        return true;
    } catch (const Error& error) {
        check_message(error.what());
        const std::string_view message = error.what();  // names the file, or else the step
        REQUIRE(message.substr(0, path.size()) == path || message.substr(0, 5) == "step ");
        return false;
    }
}

// The first keys of the database, and some that it has not.
std::vector<std::string> find_all(const Reader& reader, const std::string& path) {
    std::vector<std::string> keys;
    attempt(path, [&] {
        for (const Entry& entry : reader.database(0).list()) {
            if (keys.size() < kMostEntries) keys.push_back(entry.key);
        }
    });
    keys.insert(keys.end(), {"", "absent", std::string(600, 'x'), std::string(3, '\xff')});
    const uint64_t size = reader.database(0).file().size();
    for (const std::string& key : keys) {
        Value value{};
        bool there = false;
        attempt(path, [&] { there = reader.database(0).find(key, &value); });
        REQUIRE(!there || (value.offset <= size && value.bytes <= size - value.offset));
    }
    return keys;
}

// The bytes of a band, found in the file without the reader.
std::string expected(const std::string& content, const Value& place, int32_t band) {
    const std::string value = content.substr(place.offset, place.bytes);
    const uint64_t prefix = prefix_bytes(reinterpret_cast<const uint8_t*>(value.data()), value.size());
    const Layout layout = parse_layout(value.substr(0, prefix), value.size() - prefix, test::spellings());
    const Tensor& tensor =
        layout.tensors.at(static_cast<size_t>(layout.by_band.at(static_cast<size_t>(band))));
    return value.substr(prefix + tensor.begin, tensor.end - tensor.begin);
}

// Every key as a sample of its own, of one band.
std::unique_ptr<Table> tabulate(Reader& reader, const std::vector<std::string>& names, int32_t band) {
    auto table =
        std::make_unique<Table>(reader, Modality::kMs, std::vector<int32_t>{band}, std::vector<int32_t>{});
    const Table::Keys keys(names.begin(), names.end());
    std::vector<int64_t> rows(names.size());
    std::iota(rows.begin(), rows.end(), 0);
    const Table::Faults faults = table->add(0, rows.data(), rows.size(), keys, {});
    for (const auto& fault : faults) check_message(fault.second);
    REQUIRE(faults.size() + table->size() == names.size());
    return table;
}

// The bytes of the band that a record describes.
uint64_t record_bytes(const int64_t* record, int32_t band) {
    static constexpr uint64_t kBytes[] = {1, 2, 2, 2, 4};
    REQUIRE(record[0] >= 0 && record[1] >= 0 && record[1] < 5);
    REQUIRE(record[2] > 0 && record[3] > 0 && record[4] == band);
    return static_cast<uint64_t>(record[2]) * static_cast<uint64_t>(record[3]) * kBytes[record[1]];
}

// A sample's band, gathered into memory of exactly the size that it needs.
std::string gather(const Table& table, int64_t sample, int32_t band) {
    int64_t record[kRecordFields];
    const auto call = [&](uint8_t* out, uint64_t capacity) {
        return table.gather(&sample, 1, &band, 1, out, capacity, record);
    };
    const uint64_t needed = call(nullptr, 0);
    const std::unique_ptr<uint8_t[]> out(new uint8_t[needed]());
    REQUIRE(call(out.get(), needed) == needed);
    const uint64_t bytes = record_bytes(record, band);
    REQUIRE(record[0] == 0 && aligned(bytes) == needed);
    return std::string(reinterpret_cast<const char*>(out.get()), bytes);
}

// Two epochs of samples, in slots of exactly the size that they need: the bands' bytes without the padding
// between them, which keeps whatever the slot held before.
std::string stream(const Table& table, int32_t band, int threads, bool stand_in) {
    constexpr size_t kBatch = 3, kSlots = 2, kViews = 2;
    const uint64_t most = kBatch * kViews * std::max(table.band_bytes(false), table.band_bytes(true));
    std::vector<std::unique_ptr<uint8_t[]>> data;
    std::vector<std::unique_ptr<int64_t[]>> numbers;
    std::vector<Slot> slots;
    for (size_t slot = 0; slot < kSlots; ++slot) {
        data.emplace_back(new uint8_t[most]);
        const auto stale = static_cast<uint8_t>(16 * static_cast<size_t>(threads) + slot);  // no two alike
        std::fill_n(data.back().get(), most, stale);
        for (const size_t count : {kBatch * kViews * kRecordFields, kBatch * 1, kBatch * 1})
            numbers.emplace_back(new int64_t[count]());
        const auto last = numbers.end();
        slots.push_back({data.back().get(), most, last[-3].get(), last[-2].get(), last[-1].get()});
    }
    StreamSpec spec{7, kViews, 1, {}, {}, {kBatch, 0, 1, false}, 0, 0, 1, threads, 1, Hints::kAuto, stand_in};
    spec.last = 2 * spec.partition.steps(table.size());
    Stream stream(table, spec, slots);
    std::string out;
    Ready ready{};
    for (Stream::Next next; (next = stream.next(std::chrono::hours(1), &ready)) != Stream::Next::kEnd;) {
        REQUIRE(next == Stream::Next::kBatch && ready.bytes <= most && ready.count <= kBatch);
        const Slot& slot = slots[ready.slot];
        for (size_t view = 0; view < ready.count * kViews; ++view) {
            const int64_t* const record = slot.records + view * kRecordFields;
            const uint64_t begin = static_cast<uint64_t>(record[0]), bytes = record_bytes(record, band);
            REQUIRE(begin <= ready.bytes && bytes <= ready.bytes - begin);
            out.append(reinterpret_cast<const char*>(slot.data) + begin, bytes);
        }
        stream.release(ready.slot);
    }
    return out;
}

// As samples: a table, what it gathers, its keys, its streams and its cache.
void read_samples(Reader& reader, const std::vector<std::string>& names, const std::string& content,
                  const std::string& path) {
    for (const char* name : {"B02", "B8A", "VV"}) {
        const int32_t band = test::band_id(name);
        attempt(path, [&] {
            const auto table = tabulate(reader, names, band);
            if (table->size() == 0) return;
            for (size_t sample = 0; sample < table->size(); ++sample) {
                Value value{};
                REQUIRE(reader.database(0).find(names[table->row(sample)], &value));
                REQUIRE(gather(*table, static_cast<int64_t>(sample), band) == expected(content, value, band));
            }
            REQUIRE(table->keys(0).first.size() == table->size());
            const std::string streamed = stream(*table, band, 2, false);
            const std::unique_ptr<uint8_t[]> arena(new uint8_t[table->lay_out()]());
            table->load(arena.get(), 0, table->size());
            table->keep(arena.get());
            REQUIRE(stream(*table, band, 1, true) == streamed);  // from memory it is the same
        });
    }
}

// Every entry, in pieces: the sound and the damaged are all there are.
void survey(Reader& reader, const std::string& path) {
    attempt(path, [&] {
        Survey survey(reader, -1, true);
        while (survey.done() < survey.total()) survey.advance(reader, 5);
        uint64_t entries = survey.damaged().size() + survey.unlisted();
        for (const Survey::Schema& schema : survey.schemas()) entries += schema.entries;
        REQUIRE(entries == reader.size());
        for (const Survey::Damage& damage : survey.damaged()) check_message(damage.reason);
    });
}

// The file changes under the reader, by what its own bytes say: page upon page, then an end.
void change_and_read(Reader& reader, const std::vector<std::string>& names, const std::string& content,
                     const test::TemporaryFile& file) {
    const std::string& path = file.path();
    uint64_t seed = content.size();
    for (const char symbol : content) seed = seed * 31 + static_cast<uint8_t>(symbol);
    Dice dice(seed);
    const int32_t band = test::band_id("B02");
    std::unique_ptr<Table> table;
    attempt(path, [&] { table = tabulate(reader, names, band); });
    const auto use = [&] {
        find_all(reader, path);
        attempt(path, [&] { tabulate(reader, names, band); });
        attempt(path, [&] { Survey(reader, -1, true).advance(reader, 100); });
        if (!table || table->size() == 0) return;
        attempt(path, [&] { table->keys(0); });
        attempt(path, [&] { gather(*table, static_cast<int64_t>(dice.below(table->size())), band); });
        attempt(path, [&] { stream(*table, band, 1, true); });
    };
    for (int round = 0; round < 3; ++round) {
        const size_t from = dice.below(content.size() / 512) * 512,
                     to = dice.below(content.size() / 512) * 512;
        const std::string page = content.substr(from, 512 << dice.below(4));
        file.write(to, page.substr(0, content.size() - to));
        use();
    }
    file.truncate(dice.below(content.size()));
    use();
}

void use(const std::string& content) {
    const test::TemporaryFile file(content);
    std::unique_ptr<Reader> reader;
    const std::vector<std::string> paths = {file.path()};
    if (!attempt(file.path(), [&] { reader = std::make_unique<Reader>(paths, test::spellings(), 1); }))
        return;
    const std::vector<std::string> names = find_all(*reader, file.path());
    read_samples(*reader, names, content, file.path());
    survey(*reader, file.path());
    change_and_read(*reader, names, content, file);
}

}  // namespace
}  // namespace rsdnet::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    using namespace rsdnet::fuzz;
    if (size > kMostBytes) return 0;
    use(std::string(reinterpret_cast<const char*>(data), size));
    return 0;
}
