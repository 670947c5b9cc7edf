// Ten lines instead of a test framework. CHECK may be used in any thread: it ends the process at once.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "error.hpp"

namespace rsdnet::test {

struct Case {
    const char* name;
    void (*run)();
};
std::vector<Case>& cases();

struct Register {
    Register(const char* name, void (*run)()) { cases().push_back({name, run}); }
};

[[noreturn]] inline void fail(const char* file, int line, const std::string& what) {
    std::fprintf(stderr, "%s:%d: failed: %s\n", file, line, what.c_str());
    std::_Exit(1);
}

// The message of the Error that `body` throws; "" if it throws none.
template <typename Body>
std::string error_of(Body&& body) {
    try {
        body();
    } catch (const Error& error) {
        return error.what();
    }
    return "";
}

}  // namespace rsdnet::test

#define TEST(name)                                                    \
    static void name();                                               \
    static const rsdnet::test::Register register_##name(#name, name); \
    static void name()
#define CHECK(condition) \
    if (!(condition)) rsdnet::test::fail(__FILE__, __LINE__, #condition)
// That `expression` throws an Error whose message holds `part`.
#define CHECK_ERROR(expression, part)                                                             \
    do {                                                                                          \
        const std::string message = rsdnet::test::error_of([&] { expression; });                  \
        if (message.find(part) == std::string::npos || message.find('\n') != std::string::npos || \
            message.empty())                                                                      \
            rsdnet::test::fail(__FILE__, __LINE__, #expression " said '" + message + "'");        \
    } while (false)
