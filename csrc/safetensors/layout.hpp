// How the tensors of one database value lie: the safetensors header, parsed once and checked against the
// value's size.
//
// A value is: header length n (u64, little-endian), n bytes of JSON, the payload. The rules are those of the
// reference implementation (huggingface/safetensors, safetensors/src/tensor.rs): tensors fill the payload
// without gap or overlap.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace rsdnet {

struct Dtype {
    const char* code;  // as the header spells it: "U16"
    const char* name;  // as numpy spells it: "uint16"
    uint32_t bytes;    // of one value
    int32_t gather;    // code in a record (DTYPE_CODES of rsdnet.kernels); -1: views cannot use this type
};

struct Tensor {
    std::string name;
    const Dtype* dtype;
    std::vector<uint64_t> shape;
    uint64_t begin, end;  // bytes of the payload
};

// Per band id: the tensor names that a database may use for it, the first being the band's own.
using Spellings = std::vector<std::vector<std::string>>;

struct Layout {
    std::string prefix;            // length field and JSON text: a value that begins so has this layout
    uint64_t payload;              // bytes after it
    std::vector<Tensor> tensors;   // in payload order
    std::vector<int32_t> by_band;  // per band id: index into tensors, or -1

    const Tensor* find(std::string_view name) const;
    uint64_t value_bytes() const { return prefix.size() + payload; }
};

// Bytes before the JSON text.
constexpr uint64_t kLengthBytes = 8;

// Length field and JSON text of a value of `size` bytes, of which at least the first `kLengthBytes` are at
// `value`: how many bytes they take. Error if the value is too short for what its length field says.
uint64_t prefix_bytes(const uint8_t* value, uint64_t size);

// Parses the prefix of a value that has `payload` bytes after it. Error (the reason, without file and key) if
// it lies.
Layout parse_layout(std::string_view prefix, uint64_t payload, const Spellings& spellings);

// The names of the tensors, for messages: "B01, B02, ...".
std::string list_tensors(const Layout& layout);

}  // namespace rsdnet
