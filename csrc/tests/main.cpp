// Runs the tests, or those whose names contain the argument. --write FOLDER: writes the databases of
// databases.hpp as files instead, for the fuzzer's corpus and for tests/csrc/test_cpp.py.
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <filesystem>

#include "tests/check.hpp"
#include "tests/databases.hpp"

namespace rsdnet::test {

std::vector<Case>& cases() {
    static std::vector<Case> all;
    return all;
}

namespace {

constexpr unsigned kPatience = 240;  // seconds a test may take, under a sanitizer too: SIGALRM ends a hang

int run_all(const char* filter) {
    int count = 0;
    for (const Case& test : cases()) {
        if (!std::strstr(test.name, filter)) continue;
        std::printf("%s\n", test.name);
        std::fflush(stdout);
        alarm(kPatience);
        test.run();
        ++count;
    }
    std::printf("%d tests passed\n", count);
    return count > 0 ? 0 : 1;
}

}  // namespace
}  // namespace rsdnet::test

int main(int count, char** arguments) {
    using namespace rsdnet::test;
    if (count == 3 && std::strcmp(arguments[1], "--write") == 0) {
        for (const auto& [name, content] : seeds())
            write_file(std::string(arguments[2]) + "/" + name, content);
        return 0;
    }
    return run_all(count > 1 ? arguments[1] : "");
}
