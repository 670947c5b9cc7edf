// Mutations that know where an LMDB file keeps what a reader follows: blind ones would mostly hit pixels.
#include <algorithm>

#include "fuzz/fuzz.hpp"

namespace rsdnet::fuzz {
namespace {

constexpr size_t kPageHeader = 16, kNodeHeader = 8;

class Database {
  public:
    Database(std::string content, uint64_t seed) : content_(std::move(content)), dice_(seed) {
        page_size_ = static_cast<size_t>(word(40, 4));
        if (page_size_ < 512 || page_size_ > 32768 || (page_size_ & (page_size_ - 1)) != 0) page_size_ = 512;
    }

    std::string mutate() {
        for (size_t edits = 1 + dice_.below(3); edits > 0; --edits) edit();
        return content_;
    }

  private:
    uint64_t word(size_t offset, size_t bytes) const {
        uint64_t value = 0;
        if (offset + bytes <= content_.size()) std::memcpy(&value, content_.data() + offset, bytes);
        return value;
    }

    void set(size_t offset, size_t bytes, uint64_t value) {
        if (offset + bytes <= content_.size()) std::memcpy(content_.data() + offset, &value, bytes);
    }

    size_t pages() const { return content_.size() / page_size_; }

    // A page of the tree, by its flags, if one turns up soon.
    size_t tree_page() {
        size_t page = 0;
        for (int attempt = 0; attempt < 64; ++attempt) {
            page = dice_.below(pages()) * page_size_;
            const uint64_t flags = word(page + 10, 2);
            if (page >= 2 * page_size_ && (flags == 1 || flags == 2)) break;
        }
        return page;
    }

    // The place of a node's offset in its page, and the node's own.
    size_t slot(size_t page) {
        const auto lower = std::max<uint64_t>(word(page + 12, 2), kPageHeader + 2);
        return page + kPageHeader +
               2 * dice_.below(std::min<size_t>((lower - kPageHeader) / 2, page_size_ / 2));
    }
    size_t node(size_t page) { return page + static_cast<size_t>(word(slot(page), 2)); }

    void edit() {
        const size_t page = tree_page();
        switch (dice_.below(9)) {
            case 0:
                return edit_meta();
            case 1: {  // number, flags, lower, upper
                static constexpr size_t fields[] = {0, 10, 12, 12, 14};
                return set(page + fields[dice_.below(5)], 2, dice_.number(page_size_));
            }
            case 2:
                return set(slot(page), 2, dice_.number(page_size_));
            case 3:  // a value's bytes, or a child's page
                return set(node(page), 4, dice_.number(dice_.below(2) ? pages() : content_.size()));
            case 4:  // flags, bytes of the key
                return set(node(page) + 4 + 2 * dice_.below(2), 2, dice_.number(page_size_));
            case 5:
                return edit_overflow(page);
            case 6:
                return edit_value(page);
            case 7:
                return edit_pages();
            default: {
                const size_t other = slot(page), one = slot(page);  // keys out of order, a node twice
                return set(one, 2, word(other, 2));
            }
        }
    }

    void edit_meta() {
        const size_t meta = (dice_.below(2) ? page_size_ : 0) + kPageHeader;
        struct Field {
            size_t offset, bytes;
        };
        static constexpr Field fields[] = {{72 + 40, 8}, {72 + 40, 8}, {72 + 6, 2}, {72 + 32, 8}, {120, 8},
                                           {128, 8},     {72 + 4, 2},  {24, 4},     {0, 4},       {4, 4}};
        const Field field = fields[dice_.below(sizeof(fields) / sizeof(*fields))];
        set(meta + field.offset, field.bytes, dice_.number(pages()));
        if (field.offset == 24) set(page_size_ + kPageHeader + 24, 4, word(kPageHeader + 24, 4));
    }

    // The page of a value that lies on pages of its own.
    void edit_overflow(size_t page) {
        for (int attempt = 0; attempt < 16; ++attempt) {
            const size_t at = node(page);
            if (word(at + 4, 2) & 1) {
                const size_t number = at + kNodeHeader + static_cast<size_t>(word(at + 6, 2));
                return set(number, 8, dice_.number(pages()));
            }
        }
    }

    // Bytes of a safetensors header, in place: the length field, a number, or as libFuzzer likes.
    void edit_value(size_t page) {
        const size_t at = node(page);
        size_t value = at + kNodeHeader + static_cast<size_t>(word(at + 6, 2));
        if (word(at + 4, 2) & 1) value = static_cast<size_t>(word(value, 8)) * page_size_ + kPageHeader;
        const size_t length = std::min<size_t>(static_cast<size_t>(word(value, 8)), 2048);
        if (value + 8 + length > content_.size() || length == 0) return;
        if (dice_.below(4) == 0) return set(value, 8, dice_.number(length));
        std::string header = content_.substr(value + 8, length);
        if (dice_.below(2)) {
            const size_t digit = header.find_first_of("0123456789", dice_.below(length));
            if (digit != std::string::npos) header[digit] = static_cast<char>('0' + dice_.below(10));
        } else {
            header = mutated(header, length);
            header.resize(length, ' ');
        }
        content_.replace(value + 8, length, header);
    }

    // Whole pages: one over another, one more, the end cut off.
    void edit_pages() {
        const size_t page = dice_.below(pages()) * page_size_;
        const std::string copy = content_.substr(page, page_size_);
        switch (dice_.below(3)) {
            case 0:
                return void(content_.replace(tree_page(), copy.size(), copy));
            case 1:
                return void(content_ += copy);
            default:
                content_.resize(content_.size() - dice_.below(content_.size() / 2));
        }
    }

    std::string content_;
    Dice dice_;
    size_t page_size_;
};

}  // namespace
}  // namespace rsdnet::fuzz

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size, unsigned seed) {
    using namespace rsdnet::fuzz;
    if (size < 1024 || Dice(seed).below(10) == 0) return LLVMFuzzerMutate(data, size, max_size);
    std::string content = Database(std::string(reinterpret_cast<const char*>(data), size), seed).mutate();
    content.resize(std::min(content.size(), max_size));
    std::memcpy(data, content.data(), content.size());
    return content.size();
}
