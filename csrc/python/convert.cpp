#include "python/convert.hpp"

#include <map>

#include "error.hpp"

namespace py = pybind11;

namespace rsdnet {
namespace {

py::buffer_info request(const py::buffer& object, const char* name, bool writable) {
    constexpr int kFlags = PyBUF_C_CONTIGUOUS | PyBUF_FORMAT;
    auto* view = new Py_buffer();
    if (PyObject_GetBuffer(object.ptr(), view, kFlags | (writable ? PyBUF_WRITABLE : 0)) != 0) {
        delete view;
        PyErr_Clear();
        throw py::value_error(std::string(name) + " must be contiguous" + (writable ? " and writable" : ""));
    }
    return py::buffer_info(view);
}

}  // namespace

Modality parse_modality(const std::string& name) {
    if (name == "ms+sar") return Modality::kMsAndSar;
    if (name == "ms") return Modality::kMs;
    if (name == "sar") return Modality::kSar;
    throw py::value_error("modality is " + quoted(name) + "; expected 'ms+sar', 'ms' or 'sar'");
}

py::str text(std::string_view bytes) {
    PyObject* out =
        PyUnicode_DecodeUTF8(bytes.data(), static_cast<py::ssize_t>(bytes.size()), "surrogateescape");
    if (!out) throw py::error_already_set();
    return py::reinterpret_steal<py::str>(out);
}

std::string encode(py::handle key, size_t position) {
    if (PyBytes_Check(key.ptr())) return key.cast<std::string>();
    if (!PyUnicode_Check(key.ptr())) {
        throw py::type_error("key " + std::to_string(position) + " is a " + Py_TYPE(key.ptr())->tp_name +
                             "; expected a string");
    }
    const auto bytes =
        py::reinterpret_steal<py::object>(PyUnicode_AsEncodedString(key.ptr(), "utf-8", "surrogateescape"));
    if (!bytes) throw py::error_already_set();
    return bytes.cast<std::string>();
}

std::vector<std::string> parse_keys(const py::object& keys) {
    if (py::isinstance<py::str>(keys) || py::isinstance<py::bytes>(keys)) {
        throw py::type_error("keys is one string; give a list of them");
    }
    std::vector<std::string> names;
    for (const py::handle key : keys) names.push_back(encode(key, names.size()));
    return names;
}

uint32_t parse_uint32(const char* name, int64_t value) {
    if (value < 0 || value > UINT32_MAX) {
        throw py::value_error(std::string(name) + " is " + std::to_string(value) +
                              "; expected 0 to 2^32 - 1");
    }
    return static_cast<uint32_t>(value);
}

std::vector<uint32_t> parse_numbers(const py::buffer& buffer, const char* name) {
    const Buffer given(buffer, name);
    given.need<int64_t>();
    if (given.info.ndim != 1)
        throw py::value_error(std::string(name) + " has shape " + given.shape() + "; expected one dimension");
    std::vector<uint32_t> numbers;
    numbers.reserve(static_cast<size_t>(given.info.size));
    const std::string one = std::string("one of ") + name;
    for (py::ssize_t i = 0; i < given.info.size; ++i)
        numbers.push_back(parse_uint32(one.c_str(), given.data<int64_t>()[i]));
    return numbers;
}

std::string to_text(const std::vector<py::ssize_t>& shape) {
    std::string out = "(";
    for (size_t i = 0; i < shape.size(); ++i) out += (i ? ", " : "") + std::to_string(shape[i]);
    return out + (shape.size() == 1 ? ",)" : ")");
}

Buffer::Buffer(const py::buffer& object, const char* name, bool writable)
    : name(name), info(request(object, name, writable)) {}

void Buffer::wrong_type(const std::string& expected) const {
    static const std::map<std::string, std::string> kNames = {
        {"B", "uint8"}, {"i", "int32"}, {"I", "uint32"}, {"l", "int64"}, {"q", "int64"}};
    const auto spell = [&](const std::string& format) {
        const auto found = kNames.find(format);
        return found == kNames.end() ? "format '" + format + "'" : found->second;
    };
    throw py::type_error(std::string(name) + " is " + spell(info.format) + "; expected " + spell(expected));
}

}  // namespace rsdnet
