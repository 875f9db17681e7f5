#pragma once

#include <cstring>
#include <memory>
#include <string_view>

namespace keyload {

// Bytes of a JSON document with the readable zeros behind them that the parser needs. Not thread-safe while written.
class JsonBuffer {
 public:
  static constexpr size_t kPadding = 64;

  explicit JsonBuffer(size_t size) : size_(size), data_(new char[size + kPadding]) {
    std::memset(data_.get() + size, 0, kPadding);
  }
  explicit JsonBuffer(std::string_view text) : JsonBuffer(text.size()) {
    if (!text.empty()) std::memcpy(data_.get(), text.data(), text.size());
  }

  char* data() { return data_.get(); }
  const char* data() const { return data_.get(); }
  size_t size() const { return size_; }
  size_t capacity() const { return size_ + kPadding; }

 private:
  size_t size_;
  std::unique_ptr<char[]> data_;
};

}  // namespace keyload
