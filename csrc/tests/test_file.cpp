// A file under its reader: truncated, deleted, absent.
#include <atomic>
#include <chrono>
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

TEST(a_truncated_file_is_an_error_and_its_rest_can_be_read) {
    const std::string content = numbered(200);
    const TemporaryFile temporary(content);
    const File file(temporary.path());
    CHECK(read(file, 0, content.size()) == content);
    std::string scratch;
    CHECK(file.equals(7, content.substr(7, 999), scratch) && !file.equals(kPage - 1, "AA", scratch));
    temporary.truncate(100 * kPage);
    CHECK_ERROR(read(file, 100 * kPage, 1), "was truncated while it was open");
    CHECK_ERROR(read(file, 99 * kPage, 2 * kPage), "was truncated while it was open");
    CHECK_ERROR(file.equals(199 * kPage, "R", scratch), "was truncated while it was open");
    CHECK_ERROR(file.check(), "was truncated while it was open");
    CHECK(read(file, 0, 100 * kPage) == content.substr(0, 100 * kPage));
}

TEST(many_threads_meet_the_end_of_a_file) {
    const std::string content = numbered(60);
    const TemporaryFile temporary(content);
    const File file(temporary.path());
    std::atomic<bool> cut{false};
    std::vector<std::thread> threads;
    for (uint64_t t = 0; t < 4; ++t) {
        threads.emplace_back([&, t] {
            for (uint64_t i = 0, later = 0; later < 60; ++i) {  // every page once more after the cut
                const uint64_t offset = (i * 7 + t) % 60 * kPage;
                const bool after = cut;
                later += after;
                std::string found;
                const bool failed = !error_of([&] { found = read(file, offset, kPage); }).empty();
                CHECK(failed || found == content.substr(offset, kPage));
                CHECK(!after || failed == (offset >= 20 * kPage));
            }
        });
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    temporary.truncate(20 * kPage);
    cut = true;
    for (auto& thread : threads) thread.join();
}

TEST(a_deleted_file_is_said_to_be_deleted) {
    const TemporaryFile temporary(numbered(2));
    const File file(temporary.path());
    temporary.remove();
    CHECK_ERROR(file.check(), "was deleted or replaced while it was open");
}

TEST(what_is_no_readable_file_is_refused) {
    CHECK_ERROR(File("/nonexistent/data.mdb"), "cannot be opened");
    CHECK_ERROR(File("/tmp"), "is not a regular file");
    CHECK_ERROR(File("/dev/null"), "is not a regular file");
}

}  // namespace rsdnet::test
