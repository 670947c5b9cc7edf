// The JSON that a safetensors header needs: objects, arrays, strings and unsigned integers, read strictly and
// left to right. There is no generic value, so nothing in a file can make it recurse.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace rsdnet {

class Json {
  public:
    // `text` must outlive the parser.
    explicit Json(std::string_view text) : text_(text) {}

    void expect(char symbol);  // skips white space, then takes `symbol`; Error if something else comes
    bool accept(char symbol);  // takes `symbol` if it comes next
    std::string string();      // a string, unescaped, as well-formed UTF-8
    uint64_t number();         // 0 or a decimal integer without sign, fraction or exponent, below 2^64
    void end();                // only white space may follow
    [[noreturn]] void fail(const std::string& reason) const;  // Error that names the byte

  private:
    void skip_space();
    char peek() const { return position_ < text_.size() ? text_[position_] : '\0'; }
    uint32_t hex4();
    void append_escape(std::string& out);

    std::string_view text_;
    size_t position_ = 0;
};

}  // namespace rsdnet
