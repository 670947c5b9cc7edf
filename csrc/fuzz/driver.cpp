// A stand-in for libFuzzer, where no clang has it: replays the corpus, then mutates it at random, without
// coverage to guide it. Arguments as libFuzzer's: -max_total_time=SECONDS -max_len=BYTES
// -artifact_prefix=PATH FILE_OR_FOLDER...; others are ignored.
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "fuzz/fuzz.hpp"

extern "C" void __sanitizer_set_death_callback(void (*callback)());

namespace rsdnet::fuzz {
namespace {

namespace fs = std::filesystem;

Dice dice(std::chrono::steady_clock::now().time_since_epoch().count());
std::string current, prefix = "./";  // the input at work, and where it is kept if it fails

void keep_current() {
    const std::string path = prefix + "crash-" + std::to_string(dice.word());
    std::ofstream(path, std::ios::binary) << current;
    std::fprintf(stderr, "the input is kept in %s\n", path.c_str());
}

void fail(int signal) {
    if (signal == SIGALRM) std::fprintf(stderr, "the input takes too long\n");
    keep_current();
    std::_Exit(1);
}

void run(std::string input) {
    constexpr unsigned kPatience = 60;  // seconds
    current = std::move(input);
    alarm(kPatience);
    // A copy of exactly its size, so that AddressSanitizer sees a read past the end.
    const std::vector<uint8_t> bytes(current.begin(), current.end());
    LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
}

void add_files(const fs::path& path, std::vector<std::string>& inputs) {
    if (fs::is_directory(path)) {
        std::vector<fs::path> files(fs::directory_iterator(path), fs::directory_iterator{});
        for (const fs::path& file : files) add_files(file, inputs);
    } else {
        std::ifstream file(path, std::ios::binary);
        inputs.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
    }
}

std::string mutate(std::string input, size_t most) {
    const size_t size = std::min(input.size(), most);
    input.resize(most);
    const auto seed = static_cast<unsigned>(dice.word());
    input.resize(LLVMFuzzerCustomMutator(reinterpret_cast<uint8_t*>(input.data()), size, most, seed));
    return input;
}

struct Options {
    double seconds = 60;
    size_t most = 4096;
    std::vector<std::string> inputs;
};

Options parse(int count, char** arguments) {
    Options options;
    for (int i = 1; i < count; ++i) {
        const std::string argument = arguments[i];
        const size_t equal = argument.find('=');
        const std::string name = argument.substr(0, equal);
        if (argument[0] != '-') {
            add_files(argument, options.inputs);
        } else if (name == "-max_total_time") {
            options.seconds = std::stod(argument.substr(equal + 1));
        } else if (name == "-max_len") {
            options.most = std::stoul(argument.substr(equal + 1));
        } else if (name == "-artifact_prefix") {
            prefix = argument.substr(equal + 1);
        }
    }
    return options;
}

int drive(const Options& options) {
    const auto start = std::chrono::steady_clock::now();
    const auto seconds = [&] {
        return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    };
    size_t runs = 0;
    for (const std::string& input : options.inputs) run(input), ++runs;
    std::string input;
    while (!options.inputs.empty() && seconds() < options.seconds) {
        // Mutations pile up, so that damage comes in combinations; then from a fresh one again.
        if (dice.below(4) == 0 || runs == options.inputs.size())
            input = options.inputs[dice.below(options.inputs.size())];
        input = mutate(std::move(input), options.most);
        run(input);
        ++runs;
    }
    std::printf("%zu inputs of the corpus, %zu runs in %.0f s: none failed\n", options.inputs.size(), runs,
                seconds());
    return 0;
}

}  // namespace
}  // namespace rsdnet::fuzz

// Bytes changed, inserted, removed and repeated.
extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t max_size) {
    using rsdnet::fuzz::dice;
    std::string bytes(reinterpret_cast<const char*>(data), size);
    for (size_t edits = 1 + dice.below(4); edits > 0; --edits) {
        const size_t at = dice.below(bytes.size());
        const uint64_t word = dice.number(size);
        const size_t length = std::min<size_t>(size_t{1} << dice.below(4), bytes.size() - at);
        switch (dice.below(5)) {
            case 0:
                bytes.insert(at, 1, static_cast<char>(word));
                break;
            case 1:
                bytes.erase(at, 1 + dice.below(8));
                break;
            case 2:
                bytes.insert(dice.below(bytes.size()), bytes.substr(at, 1 + dice.below(64)));
                break;
            default:
                std::memcpy(bytes.data() + at, &word, length);
        }
    }
    bytes.resize(std::min(bytes.size(), max_size));
    std::memcpy(data, bytes.data(), bytes.size());
    return bytes.size();
}

int main(int count, char** arguments) {
    using namespace rsdnet::fuzz;
    __sanitizer_set_death_callback(keep_current);
    for (const int signal : {SIGABRT, SIGALRM}) std::signal(signal, fail);
    return drive(parse(count, arguments));
}
