// Table::save and Table::restore: for pickling.
#include <cstring>

#include "error.hpp"
#include "read/table.hpp"

namespace rsdnet {
namespace {

class Writer {
  public:
    template <typename T>
    void number(T value) {
        out_.append(reinterpret_cast<const char*>(&value), sizeof(value));
    }
    template <typename T>
    void numbers(const std::vector<T>& values) {
        number<uint64_t>(values.size());
        out_.append(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T));
    }
    void text(const std::string& value) {
        number<uint64_t>(value.size());
        out_ += value;
    }
    std::string take() { return std::move(out_); }

  private:
    std::string out_;
};

class Parser {
  public:
    explicit Parser(std::string_view in) : in_(in) {}

    template <typename T>
    T number() {
        T value;
        std::memcpy(&value, bytes(sizeof(T)).data(), sizeof(T));
        return value;
    }
    template <typename T>
    std::vector<T> numbers() {
        const auto count = number<uint64_t>();
        if (count > in_.size() / sizeof(T)) broken();
        std::vector<T> values(count);
        const std::string_view from = bytes(count * sizeof(T));
        if (count > 0) std::memcpy(values.data(), from.data(), from.size());
        return values;
    }
    std::string_view text() { return bytes(number<uint64_t>()); }
    [[noreturn]] static void broken() { throw Error("this is no pickled Table of these databases"); }

  private:
    std::string_view bytes(uint64_t count) {
        if (count > in_.size()) broken();
        const std::string_view out = in_.substr(0, count);
        in_.remove_prefix(count);
        return out;
    }

    std::string_view in_;
};

}  // namespace

std::string Table::save() const {
    if (kept_) throw Error("a Table whose samples are in a cache cannot be pickled; pickle it before");
    Writer out;
    out.number(modality_);
    out.numbers(pools_[0]), out.numbers(pools_[1]);
    for (size_t d = 0; d < reader_.databases(); ++d) out.number(reader_.database(d).transaction());
    out.numbers(samples_), out.numbers(counts_);
    out.number<uint64_t>(layouts_.size());
    for (const auto& layout : layouts_) {
        out.text(layout->prefix);
        out.number(layout->payload);
    }
    for (const bool sar : {false, true}) {
        out.number<uint64_t>(own_bytes_[sar].size());
        for (const auto& [sample, bytes] : own_bytes_[sar]) out.number(sample), out.number(bytes);
    }
    return out.take();
}

std::unique_ptr<Table> Table::restore(Reader& reader, std::string_view state) {
    Parser in(state);
    const auto modality = in.number<Modality>();
    auto ms_pool = in.numbers<int32_t>();
    auto sar_pool = in.numbers<int32_t>();
    auto table = std::make_unique<Table>(reader, modality, std::move(ms_pool), std::move(sar_pool));
    for (size_t d = 0; d < reader.databases(); ++d) {
        if (in.number<uint64_t>() != reader.database(d).transaction()) {
            throw Error(reader.database(d).path() + ": was written to since; make the samples anew");
        }
    }
    table->samples_ = in.numbers<Sample>();
    table->counts_ = in.numbers<uint64_t>();
    if (table->counts_.size() != reader.databases()) Parser::broken();
    uint64_t samples = 0;
    for (size_t d = 0; d < table->counts_.size(); ++d)
        table->first_[d] = samples, samples += table->counts_[d];
    if (samples != table->samples_.size()) Parser::broken();
    for (auto count = in.number<uint64_t>(); count > 0; --count) {
        const std::string_view prefix = in.text();
        const auto payload = in.number<uint64_t>();
        if (prefix.size() < kLengthBytes) Parser::broken();
        table->layouts_.push_back(
            std::make_unique<Layout>(parse_layout(prefix, payload, reader.spellings())));
        table->by_prefix_.emplace(table->layouts_.back()->prefix, table->layouts_.size() - 1);
    }
    for (const bool sar : {false, true}) table->restore_values(sar, in);
    return table;
}

template <typename In>
void Table::restore_values(bool sar, In& in) {
    for (auto count = in.template number<uint64_t>(); count > 0; --count) {
        const auto sample = in.template number<uint32_t>();
        own_bytes_[sar][sample] = in.template number<uint32_t>();
    }
    images_[sar].resize(layouts_.size());
    for (uint32_t sample = 0; shows(sar) && sample < size(); ++sample) {
        const Place place = samples_[sample].places[sar];
        const uint64_t index = layout_of_place(place);
        const bool own = index == kOwnLayout;
        if (own ? own_bytes_[sar].count(sample) == 0 : index >= layouts_.size()) Parser::broken();
        const uint64_t bytes = own ? own_bytes_[sar][sample] : layouts_[index]->value_bytes();
        const uint64_t size = reader_.database(database_of(sample)).file().size();
        if (bytes > size || offset_of(place) > size - bytes) Parser::broken();
        if (!own && images_[sar][index].empty()) images_[sar][index] = images_of(*layouts_[index], sar);
    }
}

}  // namespace rsdnet
