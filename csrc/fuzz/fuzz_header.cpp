// Any bytes as a database value: what prefix_bytes() and parse_layout() accept must hold together.
#include <map>
#include <set>

#include "fuzz/fuzz.hpp"
#include "safetensors/layout.hpp"
#include "tests/databases.hpp"

namespace rsdnet::fuzz {
namespace {

using Wide = unsigned __int128;

// Written again, so that a wrong size in layout.cpp shows.
const std::map<std::string, int> kBits = {{"BOOL", 8},    {"U8", 8},   {"I8", 8},   {"F8_E4M3", 8},
                                          {"F8_E5M2", 8}, {"I16", 16}, {"U16", 16}, {"F16", 16},
                                          {"BF16", 16},   {"I32", 32}, {"U32", 32}, {"F32", 32},
                                          {"I64", 64},    {"U64", 64}, {"F64", 64}, {"C64", 64}};

// Shape times type in 128 bits: the parser has refused shapes of more than 2^64 bytes.
Wide bytes_of(const Tensor& tensor) {
    Wide bytes = static_cast<Wide>(kBits.at(tensor.dtype->code)) / 8;
    for (const uint64_t extent : tensor.shape) {
        bytes *= extent;
        REQUIRE(bytes >> 64 == 0);
    }
    return bytes;
}

void check_bands(const Layout& layout, const Spellings& spellings) {
    std::map<std::string, int32_t> by_name;
    for (const Tensor& tensor : layout.tensors) by_name[tensor.name] = static_cast<int32_t>(by_name.size());
    REQUIRE(by_name.size() == layout.tensors.size());  // no name comes twice
    REQUIRE(layout.by_band.size() == spellings.size());
    for (size_t band = 0; band < spellings.size(); ++band) {
        int32_t expected = -1;
        for (const std::string& name : spellings[band]) {
            if (expected < 0 && by_name.count(name)) expected = by_name[name];
        }
        REQUIRE(layout.by_band[band] == expected);
    }
}

void check_layout(const Layout& layout, std::string_view prefix, uint64_t payload,
                  const Spellings& spellings) {
    REQUIRE(layout.prefix == prefix && layout.payload == payload);
    uint64_t covered = 0;
    for (const Tensor& tensor : layout.tensors) {
        REQUIRE(tensor.begin == covered && tensor.begin <= tensor.end && tensor.end <= payload);
        REQUIRE(bytes_of(tensor) == tensor.end - tensor.begin);
        REQUIRE(tensor.shape.size() <= 32 && is_utf8(tensor.name));
        covered = tensor.end;
    }
    REQUIRE(covered == payload);
    check_bands(layout, spellings);
    check_message(list_tensors(layout));
}

std::string literal(const std::string& name) {
    constexpr char kHex[] = "0123456789abcdef";
    std::string out = "\"";
    for (const char symbol : name) {
        const auto byte = static_cast<uint8_t>(symbol);
        if (byte < 0x20 || symbol == '"' || symbol == '\\') {
            out += std::string("\\u00") + kHex[byte >> 4] + kHex[byte & 15];
        } else {
            out += symbol;
        }
    }
    return out + "\"";
}

// The header that a layout describes.
std::string rewrite(const Layout& layout) {
    std::string out = "{";
    for (const Tensor& tensor : layout.tensors) {
        std::string shape;
        for (const uint64_t extent : tensor.shape)
            shape += (shape.empty() ? "" : ",") + std::to_string(extent);
        out += (out.size() > 1 ? "," : "") + literal(tensor.name) + ":{\"dtype\":\"" + tensor.dtype->code +
               "\",\"shape\":[" + shape + "],\"data_offsets\":[" + std::to_string(tensor.begin) + "," +
               std::to_string(tensor.end) + "]}";
    }
    return out + "}";
}

// The layout written out and parsed again is the layout.
void check_rewritten(const Layout& layout, const Spellings& spellings) {
    const Layout again = parse_layout(test::value_of(rewrite(layout), ""), layout.payload, spellings);
    REQUIRE(again.tensors.size() == layout.tensors.size());
    std::map<std::string, const Tensor*> by_name;
    for (const Tensor& tensor : again.tensors) by_name[tensor.name] = &tensor;
    for (const Tensor& tensor : layout.tensors) {  // empty tensors of one place may change places
        const Tensor* const other = by_name.at(tensor.name);
        REQUIRE(other->dtype == tensor.dtype && other->shape == tensor.shape);
        REQUIRE(other->begin == tensor.begin && other->end == tensor.end);
    }
}

void parse(std::string_view prefix, uint64_t payload) {
    const Spellings& spellings = test::spellings();
    Layout layout;
    try {
        layout = parse_layout(prefix, payload, spellings);
    } catch (const Error& error) {
        return check_message(error.what());
    }
    check_layout(layout, prefix, payload, spellings);
    check_rewritten(layout, spellings);
}

uint64_t word_at(const uint8_t* data) {
    uint64_t word = 0;
    std::memcpy(&word, data, sizeof(word));
    return word;
}

void use(const uint8_t* data, size_t size) {
    uint64_t prefix = 0;
    try {
        prefix = prefix_bytes(data, size);
    } catch (const Error& error) {
        REQUIRE(size < 8 || word_at(data) > size - 8);  // nothing else is wrong with a length
        return check_message(error.what());
    }
    REQUIRE(size >= 8 && word_at(data) <= size - 8 && prefix == word_at(data) + 8);
    const std::string_view text(reinterpret_cast<const char*>(data), prefix);
    parse(text, size - prefix);
    // And as if the value went on: payloads that no test could hold, up to 2^64.
    if (size - prefix >= 8) parse(text, word_at(data + prefix));
}

// The largest number in a header below 4096: most often the bytes of its payload.
size_t payload_of(const std::string& header) {
    size_t largest = 0, number = 0;
    for (const char symbol : header) {
        const bool digit = symbol >= '0' && symbol <= '9';
        number = digit ? 10 * number + static_cast<size_t>(symbol - '0') : 0;
        if (number > 4096) number = 0;
        largest = number > largest ? number : largest;
    }
    return largest;
}

void replace_number(std::string& header, Dice& dice) {
    const size_t start = header.find_first_of("0123456789", dice.below(header.size()));
    if (start == std::string::npos) return;
    const size_t end = header.find_first_not_of("0123456789", start);
    header.replace(start, end - start, std::to_string(dice.number(payload_of(header))));
}

void insert_token(std::string& header, Dice& dice) {
    static const char* const tokens[] = {"{",
                                         "}",
                                         "[",
                                         "]",
                                         ",",
                                         ":",
                                         "\"",
                                         "\\",
                                         "\\u",
                                         "\\ud83d\\ude00",
                                         "0",
                                         "18446744073709551615",
                                         "\"dtype\":\"U16\",",
                                         "\"shape\":[2,2],",
                                         "\"data_offsets\":[0,8],",
                                         "\"__metadata__\":{\"a\":\"b\"},",
                                         "{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[8,8]}",
                                         "\"B02\":",
                                         "\"B2\":",
                                         "F32",
                                         "BF16",
                                         "C64",
                                         "\xc3\xa9",
                                         "\xed\xa0\x80"};
    header.insert(dice.below(header.size() + 1), tokens[dice.below(sizeof(tokens) / sizeof(*tokens))]);
}

// A piece of the header again, elsewhere: a field, a tensor.
void repeat_piece(std::string& header, Dice& dice) {
    if (header.empty()) return;
    const size_t start = dice.below(header.size());
    const std::string piece = header.substr(start, 1 + dice.below(80));
    header.insert(dice.below(header.size() + 1), piece);
}

}  // namespace
}  // namespace rsdnet::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    rsdnet::fuzz::use(data, size);
    return 0;
}

// Changes the JSON and lets length and payload fit it again, most of the time.
extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size, unsigned seed) {
    using namespace rsdnet::fuzz;
    Dice dice(seed);
    if (size < 8 || word_at(data) > size - 8 || dice.below(8) == 0)
        return LLVMFuzzerMutate(data, size, max_size);
    const auto length = static_cast<size_t>(word_at(data));
    std::string header(reinterpret_cast<const char*>(data) + 8, length);
    std::string payload(reinterpret_cast<const char*>(data) + 8 + length, size - 8 - length);
    for (size_t edits = 1 + dice.below(3); edits > 0; --edits) {
        switch (dice.below(5)) {
            case 0:
                header = mutated(header, header.size() + 16);
                break;
            case 1:
                replace_number(header, dice);
                break;
            case 2:
                insert_token(header, dice);
                break;
            case 3:
                repeat_piece(header, dice);
                break;
            default:
                payload.resize(payload_of(header) + dice.below(2));
        }
    }
    if (dice.below(4) == 0 && payload.size() >= 8) {
        const uint64_t claimed = dice.number(payload_of(header));
        std::memcpy(payload.data(), &claimed, 8);
    }
    const std::string value = rsdnet::test::value_of(header, payload);
    if (value.size() > max_size) return LLVMFuzzerMutate(data, size, max_size);
    std::memcpy(data, value.data(), value.size());
    return value.size();
}
