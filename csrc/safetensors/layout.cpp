#include "safetensors/layout.hpp"

#include <algorithm>
#include <cstring>
#include <set>

#include "error.hpp"
#include "safetensors/json.hpp"

namespace rsdnet {
namespace {

constexpr uint64_t kLongestHeader = 100'000'000;  // MAX_HEADER_SIZE of the reference implementation
constexpr size_t kMostDimensions = 32;            // NPY_MAXDIMS of numpy 1; numpy 2 allows 64

// Every whole-byte type of the format. Codes to gather: those the view kernels read.
constexpr Dtype kDtypes[] = {
    {"U8", "uint8", 1, 0},
    {"I16", "int16", 2, 1},
    {"U16", "uint16", 2, 2},
    {"F16", "float16", 2, 3},
    {"F32", "float32", 4, 4},
    {"BOOL", "bool", 1, -1},
    {"I8", "int8", 1, -1},
    {"I32", "int32", 4, -1},
    {"U32", "uint32", 4, -1},
    {"I64", "int64", 8, -1},
    {"U64", "uint64", 8, -1},
    {"F64", "float64", 8, -1},
    {"C64", "complex64", 8, -1},
    {"BF16", "bfloat16", 2, -1},
    {"F8_E4M3", "float8_e4m3", 1, -1},
    {"F8_E5M2", "float8_e5m2", 1, -1},
};

const Dtype* find_dtype(std::string_view code) {
    for (const Dtype& dtype : kDtypes) {
        if (code == dtype.code) return &dtype;
    }
    return nullptr;
}

std::vector<uint64_t> parse_shape(Json& json) {
    std::vector<uint64_t> shape;
    json.expect('[');
    if (json.accept(']')) return shape;
    do {
        if (shape.size() == kMostDimensions) json.fail("a tensor of more than 32 dimensions");
        shape.push_back(json.number());
    } while (json.accept(','));
    json.expect(']');
    return shape;
}

Tensor parse_tensor(Json& json, std::string name) {
    Tensor tensor{std::move(name), nullptr, {}, 0, 0};
    bool has_dtype = false, has_shape = false, has_offsets = false;
    const auto once = [&](bool& seen) {
        if (seen) json.fail("a field of tensor " + quoted(tensor.name) + " comes twice");
        seen = true;
    };
    json.expect('{');
    do {
        const std::string field = json.string();
        json.expect(':');
        if (field == "dtype") {
            once(has_dtype);
            const std::string code = json.string();
            tensor.dtype = find_dtype(code);
            if (!tensor.dtype)
                throw Error("tensor " + quoted(tensor.name) + " has the unknown type " + quoted(code));
        } else if (field == "shape") {
            once(has_shape);
            tensor.shape = parse_shape(json);
        } else if (field == "data_offsets") {
            once(has_offsets);
            json.expect('[');
            tensor.begin = json.number();
            json.expect(',');
            tensor.end = json.number();
            json.expect(']');
        } else {
            json.fail("tensor " + quoted(tensor.name) + " has the unknown field " + quoted(field));
        }
    } while (json.accept(','));
    json.expect('}');
    if (!has_dtype || !has_shape || !has_offsets) {
        throw Error("tensor " + quoted(tensor.name) + " lacks its dtype, shape or data_offsets");
    }
    return tensor;
}

void skip_metadata(Json& json) {  // strings by name, unused here
    json.expect('{');
    if (json.accept('}')) return;
    do {
        json.string();
        json.expect(':');
        json.string();
    } while (json.accept(','));
    json.expect('}');
}

std::vector<Tensor> parse_tensors(std::string_view header) {
    std::vector<Tensor> tensors;
    Json json(header);
    json.expect('{');
    if (!json.accept('}')) {
        do {
            std::string name = json.string();
            json.expect(':');
            if (name == "__metadata__") {
                skip_metadata(json);
            } else {
                tensors.push_back(parse_tensor(json, std::move(name)));
            }
        } while (json.accept(','));
        json.expect('}');
    }
    json.end();
    return tensors;
}

// Bytes that shape and type ask for; Error if that does not fit in 64 bits.
uint64_t bytes_of(const Tensor& tensor) {
    uint64_t bytes = tensor.dtype->bytes;
    for (const uint64_t extent : tensor.shape) {
        if (extent != 0 && bytes > UINT64_MAX / extent) {
            throw Error("the shape of tensor " + quoted(tensor.name) + " has more than 2^64 bytes");
        }
        bytes *= extent;
    }
    return bytes;
}

void check_offsets(const std::vector<Tensor>& tensors, uint64_t payload) {
    uint64_t covered = 0;
    for (const Tensor& tensor : tensors) {
        const std::string who = "tensor " + quoted(tensor.name);
        const std::string where = std::to_string(tensor.begin) + " to " + std::to_string(tensor.end);
        if (tensor.end < tensor.begin || tensor.end > payload) {
            throw Error(who + " claims bytes " + where + " of a payload of " + std::to_string(payload));
        }
        if (tensor.begin != covered) {
            throw Error(who + " at bytes " + where +
                        (tensor.begin < covered ? " overlaps the one before it" : " leaves a gap before it"));
        }
        if (const uint64_t bytes = bytes_of(tensor); bytes != tensor.end - tensor.begin) {
            throw Error(who + " has " + std::to_string(tensor.end - tensor.begin) +
                        " bytes; its shape and type need " + std::to_string(bytes));
        }
        covered = tensor.end;
    }
    if (covered != payload) {
        throw Error("its tensors fill " + std::to_string(covered) + " of " + std::to_string(payload) +
                    " payload bytes");
    }
}

void check_names(const std::vector<Tensor>& tensors) {
    std::set<std::string_view> names;
    for (const Tensor& tensor : tensors) {
        if (!names.insert(tensor.name).second) throw Error("tensor " + quoted(tensor.name) + " comes twice");
    }
}

std::vector<int32_t> match_bands(const Layout& layout, const Spellings& spellings) {
    std::vector<int32_t> by_band(spellings.size(), -1);
    for (size_t band = 0; band < spellings.size(); ++band) {
        for (const std::string& name : spellings[band]) {
            const Tensor* tensor = layout.find(name);
            if (!tensor) continue;
            by_band[band] = static_cast<int32_t>(tensor - layout.tensors.data());
            break;
        }
    }
    return by_band;
}

}  // namespace

const Tensor* Layout::find(std::string_view name) const {
    for (const Tensor& tensor : tensors) {
        if (tensor.name == name) return &tensor;
    }
    return nullptr;
}

uint64_t prefix_bytes(const uint8_t* value, uint64_t size) {
    if (size < kLengthBytes) {
        throw Error("its value of " + std::to_string(size) + " bytes is too short to be safetensors");
    }
    uint64_t length = 0;
    std::memcpy(&length, value, sizeof(length));  // a value may lie at any address
    if (length > kLongestHeader || length > size - kLengthBytes) {
        throw Error("its header claims " + std::to_string(length) + " bytes of a value of " +
                    std::to_string(size));
    }
    return kLengthBytes + length;
}

Layout parse_layout(std::string_view prefix, uint64_t payload, const Spellings& spellings) {
    Layout layout;
    layout.prefix = prefix;
    layout.payload = payload;
    layout.tensors = parse_tensors(prefix.substr(kLengthBytes));
    std::sort(layout.tensors.begin(), layout.tensors.end(), [](const Tensor& a, const Tensor& b) {
        return a.begin != b.begin ? a.begin < b.begin : a.end < b.end;
    });
    check_names(layout.tensors);
    check_offsets(layout.tensors, payload);
    layout.by_band = match_bands(layout, spellings);
    return layout;
}

std::string list_tensors(const Layout& layout) {
    constexpr size_t kShown = 16;
    std::string out;
    for (size_t i = 0; i < layout.tensors.size() && i < kShown; ++i) {
        out += (i ? ", " : "") + printable(layout.tensors[i].name);
    }
    if (layout.tensors.size() > kShown) out += ", ...";
    return out.empty() ? "none" : out;
}

}  // namespace rsdnet
