#include "safetensors/json.hpp"

#include "error.hpp"

namespace rsdnet {
namespace {

void append_utf8(std::string& out, uint32_t code) {
    const auto put = [&](uint32_t byte) { out += static_cast<char>(byte); };
    if (code < 0x80) {
        put(code);
    } else if (code < 0x800) {
        put(0xC0 | code >> 6), put(0x80 | (code & 63));
    } else if (code < 0x10000) {
        put(0xE0 | code >> 12), put(0x80 | (code >> 6 & 63)), put(0x80 | (code & 63));
    } else {
        put(0xF0 | code >> 18), put(0x80 | (code >> 12 & 63)), put(0x80 | (code >> 6 & 63)),
            put(0x80 | (code & 63));
    }
}

}  // namespace

void Json::fail(const std::string& reason) const {
    throw Error("its header is damaged at byte " + std::to_string(position_) + ": " + reason);
}

void Json::skip_space() {
    while (peek() == ' ' || peek() == '\t' || peek() == '\n' || peek() == '\r') ++position_;
}

void Json::expect(char symbol) {
    if (!accept(symbol)) fail(std::string("expected '") + symbol + "'");
}

bool Json::accept(char symbol) {
    skip_space();
    if (position_ >= text_.size() || text_[position_] != symbol) return false;
    ++position_;
    return true;
}

std::string Json::string() {
    expect('"');
    std::string out;
    for (;;) {
        if (position_ >= text_.size()) fail("a string does not end");
        const char symbol = text_[position_];
        if (static_cast<uint8_t>(symbol) < 0x20) fail("a control character in a string");
        ++position_;
        if (symbol == '"') break;
        if (symbol == '\\') {
            append_escape(out);
        } else {
            out += symbol;
        }
    }
    if (!is_utf8(out)) fail("a string is not UTF-8");
    return out;
}

void Json::append_escape(std::string& out) {
    const char symbol = peek();
    ++position_;
    switch (symbol) {
        case '"':
        case '\\':
        case '/':
            out += symbol;
            return;
        case 'b':
            out += '\b';
            return;
        case 'f':
            out += '\f';
            return;
        case 'n':
            out += '\n';
            return;
        case 'r':
            out += '\r';
            return;
        case 't':
            out += '\t';
            return;
        case 'u':
            break;
        default:
            fail("an unknown escape in a string");
    }
    uint32_t code = hex4();
    if (code >= 0xD800 && code < 0xDC00) {  // a surrogate pair (RFC 8259, section 7)
        if (text_.substr(position_, 2) != "\\u") fail("half a surrogate pair");
        position_ += 2;
        const uint32_t low = hex4();
        if (low < 0xDC00 || low > 0xDFFF) fail("half a surrogate pair");
        code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
    } else if (code >= 0xDC00 && code < 0xE000) {
        fail("half a surrogate pair");
    }
    append_utf8(out, code);
}

uint32_t Json::hex4() {
    uint32_t code = 0;
    for (int i = 0; i < 4; ++i) {
        const char symbol = peek();
        uint32_t digit = 0;
        if (symbol >= '0' && symbol <= '9') {
            digit = static_cast<uint32_t>(symbol - '0');
        } else if ((symbol | 32) >= 'a' && (symbol | 32) <= 'f') {
            digit = static_cast<uint32_t>((symbol | 32) - 'a') + 10;
        } else {
            fail("a \\u escape without four hexadecimal digits");
        }
        code = code << 4 | digit;
        ++position_;
    }
    return code;
}

uint64_t Json::number() {
    skip_space();
    const size_t start = position_;
    uint64_t value = 0;
    while (peek() >= '0' && peek() <= '9') {
        const auto digit = static_cast<uint64_t>(peek() - '0');
        if (value > (UINT64_MAX - digit) / 10) fail("a number is larger than 2^64");
        value = value * 10 + digit;
        ++position_;
    }
    if (position_ == start) fail("expected a whole number");
    if (text_[start] == '0' && position_ - start > 1) fail("a number with a leading zero");
    const char after = peek();
    if (after == '.' || after == 'e' || after == 'E') fail("expected a whole number");
    return value;
}

void Json::end() {
    skip_space();
    if (position_ < text_.size()) fail("something follows the header's end");
}

}  // namespace rsdnet
