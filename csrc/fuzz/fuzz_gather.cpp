// Any bytes as a database file: opened both ways, searched, checked, read whole and streamed; then the same
// on a file that is changed and cut under the reader. Nothing but Error may come out, no byte may be read or
// written out of bounds, and both ways must say and give the same.
#include <pthread.h>

#include <algorithm>
#include <iterator>
#include <memory>
#include <set>

#include "fuzz/fuzz.hpp"
#include "read/reader.hpp"
#include "read/stream.hpp"
#include "read/survey.hpp"
#include "tests/databases.hpp"

namespace rsdnet::fuzz {
namespace {

constexpr size_t kMostEntries = 12, kMostBytes = 1 << 16;  // so that an input takes about a millisecond
const char* const kBands[] = {"B02", "B03", "B08", "B8A", "VV"};

// AddressSanitizer clears the shadow of a thread's whole stack when it starts: with small ones, and far more
// inputs a second.
const int small_stacks = [] {
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, 1 << 18);
    return pthread_setattr_default_np(&attributes);
}();

// What one way of reading said and gave, in order.
using Outcome = std::vector<std::string>;

// Calls `body`; its Error becomes part of the outcome.
template <typename Body>
bool attempt(Outcome& outcome, const std::string& path, Body&& body) {
    try {
        body();
        return true;
    } catch (const Error& error) {
        check_message(error.what());
        const std::string_view message = error.what();  // names the file, or else the step
        REQUIRE(message.substr(0, path.size()) == path || message.substr(0, 5) == "step ");
        outcome.push_back(error.what());
        return false;
    }
}

// Entries and bands to read, pair by pair.
struct Pairs {
    std::vector<int64_t> entries, bands;

    size_t size() const { return entries.size(); }
    void add(int64_t entry, int64_t band) { entries.push_back(entry), bands.push_back(band); }
};

std::vector<std::string> names_of(const Reader& reader, const std::string& path, Outcome& outcome) {
    std::vector<std::string> names;
    attempt(outcome, path, [&] {
        for (const Item& item : reader.database(0).items()) {
            if (names.size() < kMostEntries) names.emplace_back(item.name());
        }
    });
    return names;
}

Pairs find_all(Reader& reader, const std::string& path, Outcome& outcome) {
    std::vector<Entry> found;
    std::vector<std::string> names = names_of(reader, path, outcome);
    names.insert(names.end(), {"", "absent", std::string(600, 'x'), std::string(3, '\xff')});
    const uint64_t size = reader.database(0).file().size();
    for (const std::string& name : names) {
        Entry entry{};
        bool there = false;
        attempt(outcome, path, [&] { there = reader.find(name, -1, &entry); });
        if (!there) continue;
        REQUIRE(entry.offset <= size && entry.bytes <= size - entry.offset &&
                entry.name().size() == name.size());
        found.push_back(entry);
    }
    std::vector<int64_t> handles(found.size());
    reader.register_entries(found, handles.data());
    Pairs pairs;
    for (const int64_t handle : handles) {
        for (const char* band : kBands) pairs.add(handle, test::band_id(band));
    }
    return pairs;
}

// Gathers into memory of exactly the size that is needed, so that AddressSanitizer sees a byte too many.
std::string gather(Reader& reader, const Pairs& pairs) {
    const size_t fields = pairs.size() * kRecordFields;
    const std::unique_ptr<int64_t[]> records(new int64_t[fields]);
    const auto call = [&](uint8_t* out, uint64_t capacity) {
        return reader.gather(pairs.entries.data(), pairs.bands.data(), pairs.size(), out, capacity,
                             records.get());
    };
    const uint64_t needed = call(nullptr, 0);
    REQUIRE(needed <= pairs.size() * aligned(reader.database(0).file().size()));
    const std::unique_ptr<uint8_t[]> out(new uint8_t[needed]());
    REQUIRE(call(out.get(), needed) == needed);
    static constexpr uint64_t kBytes[] = {1, 2, 2, 2, 4};
    uint64_t end = 0;
    for (size_t i = 0; i < pairs.size(); ++i) {
        const int64_t* const record = records.get() + kRecordFields * i;
        REQUIRE(record[0] == static_cast<int64_t>(aligned(end)) && record[1] >= 0 && record[1] < 5);
        REQUIRE(record[2] > 0 && record[3] > 0 && record[4] == pairs.bands[i]);
        end = static_cast<uint64_t>(record[0]) +
              static_cast<uint64_t>(record[2]) * static_cast<uint64_t>(record[3]) * kBytes[record[1]];
    }
    REQUIRE(end == needed);
    return std::string(reinterpret_cast<const char*>(out.get()), needed);
}

// The bytes of a band, found in the file without the reader.
std::string expected(const std::string& content, const Entry& entry, int64_t band) {
    const std::string value = content.substr(entry.offset, entry.bytes);
    const uint64_t prefix = prefix_bytes(reinterpret_cast<const uint8_t*>(value.data()), value.size());
    const Layout layout = parse_layout(value.substr(0, prefix), value.size() - prefix, test::spellings());
    const Tensor& tensor =
        layout.tensors.at(static_cast<size_t>(layout.by_band.at(static_cast<size_t>(band))));
    return value.substr(prefix + tensor.begin, tensor.end - tensor.begin);
}

void read_all(Reader& reader, const Pairs& pairs, const std::string& content, const std::string& path,
              Outcome& outcome) {
    std::set<size_t> refused;
    const bool checked = attempt(outcome, path, [&] {
        for (auto& [i, reason] : reader.check(pairs.entries.data(), pairs.bands.data(), pairs.size())) {
            check_message(reason);
            refused.insert(i);
        }
    });
    if (!checked) return;
    Pairs good;
    for (size_t i = 0; i < pairs.size(); ++i) {
        Pairs one;
        one.add(pairs.entries[i], pairs.bands[i]);
        std::string bytes;
        const bool read = attempt(outcome, path, [&] { bytes = gather(reader, one); });
        REQUIRE(read ==
                (refused.count(i) == 0));  // the reason may differ: it depends on what was read before
        if (!read) continue;
        const Entry& entry = reader.entries()[static_cast<size_t>(pairs.entries[i])];
        REQUIRE(bytes == expected(content, entry, pairs.bands[i]));
        good.add(pairs.entries[i], pairs.bands[i]);
    }
    attempt(outcome, path, [&] { outcome.push_back(gather(reader, good)); });
}

// Two epochs of samples, in slots of exactly the size that they need.
std::string stream(const Table& table, int threads, bool stand_in) {
    constexpr size_t kBatch = 3, kSlots = 2, kViews = 2;
    const uint64_t most = kBatch * kViews * std::max(table.band_bytes(false), table.band_bytes(true));
    std::vector<std::unique_ptr<uint8_t[]>> data;
    std::vector<std::unique_ptr<int64_t[]>> numbers;
    std::vector<Slot> slots;
    for (size_t slot = 0; slot < kSlots; ++slot) {
        data.emplace_back(new uint8_t[most]());
        for (const size_t count : {kBatch * kViews * kRecordFields, kBatch * 1, kBatch * 1})
            numbers.emplace_back(new int64_t[count]());
        const auto last = numbers.end();
        slots.push_back({data.back().get(), most, last[-3].get(), last[-2].get(), last[-1].get()});
    }
    StreamSpec spec{7, kViews, 1, {}, {}, {kBatch, 0, 1, false}, 0, 0, 1, threads, 1, Hints::kAuto, stand_in};
    spec.last = 2 * spec.shard.steps(table.size());
    Stream stream(table, spec, slots);
    std::string out;
    Ready ready{};
    for (Stream::Next next; (next = stream.next(std::chrono::seconds(10), &ready)) != Stream::Next::kEnd;) {
        REQUIRE(next == Stream::Next::kBatch && ready.bytes <= most && ready.count <= kBatch);
        out.append(reinterpret_cast<const char*>(slots[ready.slot].data), ready.bytes);
        stream.release(ready.slot);
    }
    return out;
}

// Every entry as a sample of its own, of one band.
std::unique_ptr<Table> tabulate(Reader& reader, const Pairs& pairs, int32_t band, Outcome& outcome) {
    auto table =
        std::make_unique<Table>(reader, Modality::kMs, std::vector<int32_t>{band}, std::vector<int32_t>{});
    Table::Keys keys;
    std::vector<int64_t> rows;
    for (size_t i = 0; i < pairs.size(); i += std::size(kBands)) {
        keys.emplace_back(reader.entries()[static_cast<size_t>(pairs.entries[i])].name());
        rows.push_back(static_cast<int64_t>(rows.size()));
    }
    for (const auto& [i, reason] : table->add(0, rows.data(), rows.size(), keys, {})) {
        check_message(reason);
        outcome.push_back(reason);
    }
    return table;
}

// As samples: a table, its cache and its streams.
void read_samples(Reader& reader, const Pairs& pairs, const std::string& path, Outcome& outcome) {
    for (const char* band : {"B02", "VV"}) {
        attempt(outcome, path, [&] {
            const auto table = tabulate(reader, pairs, test::band_id(band), outcome);
            if (table->size() == 0) return;
            outcome.push_back(stream(*table, 2, false));
            const std::unique_ptr<uint8_t[]> arena(new uint8_t[table->lay_out()]());
            table->load(arena.get(), 0, table->size());
            Table::restore(reader, table->save());
            table->keep(arena.get());
            REQUIRE(stream(*table, 1, true) == outcome.back());  // from memory it is the same
        });
    }
}

// Every entry, in pieces: the sound and the damaged are all there are.
void survey(Reader& reader, const std::string& path, Outcome& outcome) {
    attempt(outcome, path, [&] {
        Survey survey(reader, -1, true);
        while (survey.done() < survey.total()) survey.advance(reader, 5);
        uint64_t entries = survey.damaged().size() + survey.unlisted();
        for (const Survey::Schema& schema : survey.schemas()) entries += schema.entries;
        REQUIRE(entries == reader.size());
        for (const Survey::Damage& damage : survey.damaged()) {
            check_message(damage.reason);
            outcome.push_back(damage.reason);
        }
    });
}

// The file changes under the reader, by what its own bytes say: page upon page, then an end.
void change_and_read(Reader& reader, const Pairs& pairs, const std::string& content,
                     const test::TemporaryFile& file) {
    const std::string& path = file.path();
    Outcome ignored;
    uint64_t seed = content.size();
    for (const char symbol : content) seed = seed * 31 + static_cast<uint8_t>(symbol);
    Dice dice(seed);
    std::unique_ptr<Table> table;
    attempt(ignored, path, [&] { table = tabulate(reader, pairs, test::band_id("B02"), ignored); });
    const auto use = [&] {
        find_all(reader, path, ignored);
        attempt(ignored, path, [&] { reader.check(pairs.entries.data(), pairs.bands.data(), pairs.size()); });
        attempt(ignored, path, [&] { gather(reader, pairs); });
        attempt(ignored, path, [&] { Survey(reader, -1, true).advance(reader, 100); });
        if (table && table->size() > 0) attempt(ignored, path, [&] { stream(*table, 1, true); });
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

Outcome use(const std::string& content, Access access) {
    const test::TemporaryFile file(content);
    Outcome outcome;
    std::unique_ptr<Reader> reader;
    const std::vector<std::string> paths = {file.path()};
    if (attempt(outcome, file.path(),
                [&] { reader = std::make_unique<Reader>(paths, test::spellings(), 1, access); })) {
        const Pairs pairs = find_all(*reader, file.path(), outcome);
        read_all(*reader, pairs, content, file.path(), outcome);
        read_samples(*reader, pairs, file.path(), outcome);
        survey(*reader, file.path(), outcome);
        change_and_read(*reader, pairs, content, file);
    }
    for (std::string& line : outcome) {  // the two files differ in their names
        const size_t name = line.find(file.path());
        if (name != std::string::npos) line.erase(name, file.path().size());
    }
    return outcome;
}

}  // namespace
}  // namespace rsdnet::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    using namespace rsdnet::fuzz;
    if (size > kMostBytes) return 0;
    const std::string content(reinterpret_cast<const char*>(data), size);
    REQUIRE(use(content, rsdnet::Access::kMap) == use(content, rsdnet::Access::kPread));
    return 0;
}
