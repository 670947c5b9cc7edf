// What a caller is told about bad input: one line that names the file or key, what is wrong and what to do.
#pragma once

#include <stdexcept>
#include <string>
#include <string_view>

namespace rsdnet {

class Error : public std::runtime_error {
  public:
    using std::runtime_error::runtime_error;
};

// A database as a whole can no longer be read: its file has changed under the reader.
class FileError : public Error {
  public:
    using Error::Error;
};

// True if `text` is well-formed UTF-8: no overlong form, no surrogate, nothing above U+10FFFF.
bool is_utf8(std::string_view text);

// `text` made fit for a one-line message: control characters and bytes that are no UTF-8 as \xNN, cut at 200
// bytes.
std::string printable(std::string_view text);

// printable() between single quotes.
std::string quoted(std::string_view text);

}  // namespace rsdnet
