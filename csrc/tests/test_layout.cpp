// The parsers of a value's header, JSON and safetensors; the cache of the layouts that they find.
#include <atomic>
#include <cstring>
#include <thread>

#include "read/layouts.hpp"
#include "safetensors/json.hpp"
#include "safetensors/layout.hpp"
#include "tests/check.hpp"
#include "tests/databases.hpp"

namespace rsdnet::test {
namespace {

Layout parse(const std::string& value) {
    // A copy of exactly its size on the heap, so that AddressSanitizer sees a read past the end.
    const std::vector<uint8_t> bytes(value.begin(), value.end());
    const uint64_t prefix = prefix_bytes(bytes.data(), bytes.size());
    return parse_layout({reinterpret_cast<const char*>(bytes.data()), prefix}, bytes.size() - prefix,
                        spellings());
}

std::string one(const std::string& fields) {
    return value_of("{\"B02\":{" + fields + "}}", std::string(8, '\0'));
}

std::string decoded(const std::string& literal) {
    return Json(literal).string();
}

uint64_t number(const std::string& text) {
    return Json(text).number();
}

}  // namespace

TEST(json_strings_are_unescaped_as_utf8) {
    CHECK(decoded(R"( "a\n\"\\\/\b\f\r\t")") == "a\n\"\\/\b\f\r\t");
    CHECK(decoded(R"("\u0041\u00e9\u20ac\ud83d\ude00")") == "A\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80");
    CHECK(decoded(R"("\u0000")") == std::string(1, '\0'));
    CHECK_ERROR(decoded(R"("\ud83d")"), "half a surrogate pair");
    CHECK_ERROR(decoded(R"("\ud83d\u0041")"), "half a surrogate pair");
    CHECK_ERROR(decoded(R"("\ude00")"), "half a surrogate pair");
    CHECK_ERROR(decoded(R"("\u12g4")"), "four hexadecimal digits");
    CHECK_ERROR(decoded(R"("\u12)"), "four hexadecimal digits");
    CHECK_ERROR(decoded(R"("\x")"), "unknown escape");
    CHECK_ERROR(decoded("\"\\"), "unknown escape");
    CHECK_ERROR(decoded("\"a\nb\""), "control character");
    CHECK_ERROR(decoded("\"a"), "does not end");
    CHECK_ERROR(decoded(""), "expected '\"'");
    CHECK_ERROR(decoded("\"\xc0\x80\""), "not UTF-8");      // an overlong form
    CHECK_ERROR(decoded("\"\xed\xa0\x80\""), "not UTF-8");  // a surrogate
    CHECK_ERROR(decoded("\"\xf4\x90\x80\x80\""), "not UTF-8");
    CHECK_ERROR(decoded("\"\xe2\x82\""), "not UTF-8");
}

TEST(json_numbers_end_below_2_to_64) {
    CHECK(number("0") == 0);
    CHECK(number(" 18446744073709551615,") == UINT64_MAX);
    for (const char* text : {"18446744073709551616", "99999999999999999999999"})
        CHECK_ERROR(number(text), "larger than 2^64");
    for (const char* text : {"", "-1", "+1", "1.5", "1e3", "1E3", ".5", "x"})
        CHECK_ERROR(number(text), "whole number");
    for (const char* text : {"00", "01"}) CHECK_ERROR(number(text), "leading zero");
}

TEST(a_header_is_laid_out_as_written) {
    const Layout layout = parse(ms_patch(3, 6));
    const char* const names[] = {"B02", "B03", "B05", "B08", "B8A"};
    CHECK(layout.tensors.size() == 5);
    uint64_t begin = 0;
    for (size_t i = 0; i < 5; ++i) {
        const Tensor& tensor = layout.tensors[i];
        const uint64_t side = i == 2 || i == 4 ? 3 : 6;
        CHECK(tensor.name == names[i] && std::strcmp(tensor.dtype->code, "U16") == 0);
        CHECK((tensor.shape == std::vector<uint64_t>{side, side}));
        CHECK(tensor.begin == begin && tensor.end == begin + 2 * side * side);
        CHECK(layout.by_band[static_cast<size_t>(band_id(names[i]))] == static_cast<int32_t>(i));
        begin = tensor.end;
    }
    CHECK(layout.payload == begin);
    CHECK(layout.by_band[static_cast<size_t>(band_id("VV"))] == -1);
    CHECK(layout.find("B8A") == &layout.tensors[4] && layout.find("B8") == nullptr);
}

TEST(a_band_is_found_by_any_of_its_spellings_its_own_first) {
    const Layout layout = parse(
        value_of({{"B8", "U8", {1, 1}, "a"}, {"B08", "U8", {1, 2}, "bc"}, {"B08A", "U8", {1, 1}, "d"}}));
    CHECK(layout.by_band[static_cast<size_t>(band_id("B08"))] == 1);
    CHECK(layout.by_band[static_cast<size_t>(band_id("B8A"))] == 2);
}

TEST(tensors_may_come_in_any_order_and_be_empty) {
    const Layout layout = parse(value_of(
        R"({"b":{"shape":[2],"data_offsets":[2,4],"dtype":"U8"},"e":{"dtype":"I64","shape":[0,9],"data_offsets":[2,2]},)"
        R"("a":{"dtype":"BF16","shape":[],"data_offsets":[0,2]},"__metadata__":{"x":"y"}} )",
        "1234"));
    CHECK(layout.tensors.size() == 3);
    CHECK(layout.tensors[0].name == "a" && layout.tensors[1].name == "e" && layout.tensors[2].name == "b");
    CHECK(parse(value_of("{}", "")).tensors.empty());
    CHECK(parse(value_of(R"({"__metadata__":{}})", "")).tensors.empty());
}

TEST(a_length_field_that_lies_is_refused) {
    const auto refuse = [](const std::string& value) { parse(value); };
    for (size_t bytes = 0; bytes < 8; ++bytes) CHECK_ERROR(refuse(std::string(bytes, '\0')), "too short");
    for (const uint64_t length :
         {uint64_t{3}, uint64_t{100'000'001}, uint64_t{1} << 63, UINT64_MAX, UINT64_MAX - 7}) {
        std::string value = value_of("{}", "");
        std::memcpy(value.data(), &length, sizeof(length));
        CHECK_ERROR(refuse(value), "its header claims " + std::to_string(length));
    }
}

TEST(headers_that_lie_are_refused) {
    const std::string dtype = R"("dtype":"U16",)", shape = R"("shape":[2,2],)",
                      offsets = R"("data_offsets":[0,8])";
    parse(one(dtype + shape + offsets));
    const std::pair<std::string, const char*> lies[] = {
        {dtype + shape + R"("data_offsets":[8,0])", "claims bytes 8 to 0"},
        {dtype + shape + R"("data_offsets":[0,9])", "claims bytes 0 to 9 of a payload of 8"},
        {dtype + shape + R"("data_offsets":[18446744073709551608,0])", "claims bytes"},
        {dtype + shape + R"("data_offsets":[1,8])", "leaves a gap"},
        {dtype + shape + R"("data_offsets":[0,7])", "its shape and type need 8"},
        {dtype + R"("shape":[2,3],)" + offsets, "its shape and type need 12"},
        {dtype + R"("shape":[9223372036854775810,2],)" + offsets, "more than 2^64 bytes"},
        {dtype + R"("shape":[4294967296,4294967296],)" + offsets, "more than 2^64 bytes"},
        {R"("dtype":"u16",)" + shape + offsets, "unknown type 'u16'"},
        {shape + offsets, "lacks its dtype"},
        {dtype + offsets, "lacks its dtype, shape"},
        {dtype + shape + "\"more\":1", "unknown field 'more'"},
        {dtype + dtype + shape + offsets, "comes twice"},
        {dtype + shape + shape + offsets, "comes twice"},
        {dtype + shape + offsets + "," + offsets, "comes twice"},
        {dtype + shape + R"("data_offsets":[0])", "expected ','"},
        {dtype + shape + R"("data_offsets":[0,8,8])", "expected ']'"},
        {dtype + shape + offsets + ",", "expected '\"'"},
    };
    for (const auto& lie : lies) CHECK_ERROR(parse(one(lie.first)), lie.second);
    const std::string twice = R"("a":{"dtype":"U8","shape":[4],"data_offsets":[)";
    CHECK_ERROR(parse(value_of("{" + twice + "0,4]}," + twice + "4,8]}}", std::string(8, '\0'))),
                "comes twice");
    CHECK_ERROR(parse(value_of("{}", "x")), "fill 0 of 1");
    CHECK_ERROR(parse(value_of("{}x", "")), "something follows");
}

TEST(offsets_of_more_than_2_to_63_do_not_wrap) {
    const std::string header =
        R"({"a":{"dtype":"U8","shape":[18446744073709551615],"data_offsets":[0,18446744073709551615]}})";
    const std::string prefix = value_of(header, "");
    const Layout layout = parse_layout(prefix, UINT64_MAX, spellings());
    CHECK(layout.tensors[0].end == UINT64_MAX);
    CHECK_ERROR(parse_layout(prefix, UINT64_MAX - 1, spellings()), "claims bytes");
}

TEST(a_cache_of_layouts_is_shared_by_threads) {
    LayoutCache cache;
    constexpr size_t kLayouts = 1500;  // more than it keeps
    std::vector<std::string> prefixes;
    for (size_t i = 0; i < kLayouts; ++i) {
        prefixes.push_back(value_of({{"B02", "U8", {1, i}, std::string(i, 'x')}}));
        prefixes.back().resize(prefixes.back().size() - i);
    }
    std::vector<std::thread> threads;
    std::atomic<size_t> kept{0};
    for (size_t t = 0; t < 4; ++t) {
        threads.emplace_back([&, t] {
            for (size_t i = 0; i < kLayouts; ++i) {
                const std::string& prefix = prefixes[(i * 7 + t * 300) % kLayouts];
                const uint64_t payload = (i * 7 + t * 300) % kLayouts;
                const Layout* found = cache.find(prefix);
                auto parsed = std::make_unique<Layout>(parse_layout(prefix, payload, spellings()));
                const Layout* const added = found ? found : cache.add(parsed);
                if (added) {
                    CHECK(added->prefix == prefix && added->payload == payload &&
                          cache.find(prefix) == added);
                    ++kept;
                }
            }
        });
    }
    for (auto& thread : threads) thread.join();
    size_t there = 0;
    for (const std::string& prefix : prefixes) there += cache.find(prefix) != nullptr;
    CHECK(there == 1024 && kept >= there);
}

TEST(messages_show_no_control_character) {
    CHECK(quoted("a\nb\x7f\xff") == "'a\\x0ab\\x7f\\xff'");
    CHECK(printable(std::string(1000, 'x')).size() < 210);
}

}  // namespace rsdnet::test
