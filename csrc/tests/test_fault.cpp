// What happens to files under a reader: truncated, deleted; and signals that are not ours.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <thread>

#include "lmdb/file.hpp"
#include "tests/check.hpp"
#include "tests/databases.hpp"

namespace rsdnet::test {
namespace {

constexpr uint64_t kPage = 4096;

std::string numbered(uint64_t pages) {
    std::string content;
    for (uint64_t page = 0; page < pages; ++page) content.append(kPage, static_cast<char>('A' + page % 26));
    return content;
}

std::string read(const File& file, uint64_t offset, uint64_t bytes) {
    std::string out(bytes, '?');
    file.read(offset, bytes, reinterpret_cast<uint8_t*>(out.data()));
    return out;
}

}  // namespace

TEST(a_file_truncated_under_its_map_is_an_error_not_a_signal) {
    const std::string content = numbered(200);
    for (const Access way : {Access::kMap, Access::kPread}) {
        const TemporaryFile temporary(content);
        const File file(temporary.path(), way);
        CHECK(read(file, 0, content.size()) == content);
        temporary.truncate(100 * kPage);
        CHECK_ERROR(read(file, 100 * kPage, 1), "was truncated while it was open");
        CHECK_ERROR(read(file, 99 * kPage, 2 * kPage), "was truncated while it was open");
        CHECK_ERROR(file.check(), "was truncated while it was open");
        CHECK(read(file, 0, 100 * kPage) == content.substr(0, 100 * kPage));  // what is left can be read
        for (uint64_t page = 199; page >= 100; --page) {                      // more faults than are kept
            CHECK_ERROR(read(file, page * kPage + 7, 5), "was truncated while it was open");
        }
    }
}

TEST(many_threads_meet_the_end_of_a_file) {
    for (int round = 0; round < 10; ++round) {
        const std::string content = numbered(60);
        const TemporaryFile temporary(content);
        const File file(temporary.path(), Access::kMap);
        std::atomic<bool> cut{false};
        std::atomic<int> errors{0};
        std::vector<std::thread> threads;
        for (int t = 0; t < 6; ++t) {
            threads.emplace_back([&, t] {
                for (uint64_t i = 0, later = 0; later < 60; ++i) {  // every page once more after the cut
                    const uint64_t offset = (i * 7 + static_cast<uint64_t>(t)) % 60 * kPage;
                    const bool after = cut;
                    later += after;
                    std::string found;
                    const bool failed = !error_of([&] { found = read(file, offset, kPage); }).empty();
                    CHECK(failed || found == content.substr(offset, kPage));  // never zeros without an error
                    CHECK(!after || failed || offset < 20 * kPage);
                    errors += failed;
                }
            });
        }
        std::this_thread::sleep_for(std::chrono::milliseconds(2));
        temporary.truncate(20 * kPage);
        cut = true;
        for (auto& thread : threads) thread.join();
        CHECK(errors > 0);
    }
}

TEST(a_deleted_file_is_said_to_be_deleted) {
    for (const Access way : {Access::kMap, Access::kPread}) {
        const TemporaryFile temporary(numbered(2));
        const File file(temporary.path(), way);
        temporary.remove();
        CHECK_ERROR(file.check(), "was deleted or replaced while it was open");
    }
}

TEST(what_is_no_readable_file_is_refused) {
    CHECK_ERROR(File("/nonexistent/data.mdb", Access::kMap), "cannot be opened");
    CHECK_ERROR(File("/tmp", Access::kMap), "is not a regular file");
    CHECK_ERROR(File("/dev/null", Access::kPread), "is not a regular file");
}

TEST(more_maps_than_are_watched_are_read_without_a_map) {
    const TemporaryFile temporary(numbered(1));
    std::vector<std::unique_ptr<File>> files;
    for (int i = 0; i < 1100 && (files.empty() || files.back()->access() == Access::kMap); ++i) {
        files.push_back(std::make_unique<File>(temporary.path(), Access::kMap));
    }
    CHECK(files.size() > 512 && files.back()->access() == Access::kPread);
    CHECK(read(*files.back(), 9, 3) == "AAA");
    files.clear();
    CHECK(File(temporary.path(), Access::kMap).access() == Access::kMap);  // and they are given back
}

TEST(a_fault_elsewhere_still_ends_the_process) {
    const TemporaryFile ours(numbered(2)), other(numbered(2));
    const File file(ours.path(), Access::kMap);
    std::fflush(nullptr);
    const pid_t child = fork();
    if (child == 0) {
        alarm(60);
        if (!std::freopen("/dev/null", "w", stderr)) std::_Exit(0);  // a sanitizer reports it there
        const int descriptor = open(other.path().c_str(), O_RDONLY);
        const auto* const map =
            static_cast<const volatile char*>(mmap(nullptr, 2 * kPage, PROT_READ, MAP_SHARED, descriptor, 0));
        other.truncate(0);
        std::_Exit(map[kPage] ? 0 : 0);
    }
    int status = 0;
    CHECK(child > 0 && waitpid(child, &status, 0) == child);
    CHECK(!WIFEXITED(status) || WEXITSTATUS(status) != 0);
    CHECK(!WIFSIGNALED(status) || WTERMSIG(status) == SIGBUS);
}

}  // namespace rsdnet::test
