#include "client/cli/absent_files.h"

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <set>

#include "client/cli/json_output.h"

namespace keyload::cli {
namespace {

namespace fs = std::filesystem;

constexpr uintmax_t kMaxIndexFileBytes = uintmax_t{128} << 20;  // as the server reads
constexpr char kStandardIndexName[] = "model.safetensors.index.json";
constexpr char kIndexName[] = ".safetensors.index.";

// Collects the values of weight_map without keeping the document, which has a key for each tensor.
class ShardNames : public nlohmann::json_sax<Json> {
 public:
  const std::set<std::string>& names() const { return names_; }

  bool key(string_t& name) override {
    if (depth_ == 1) in_map_ = name == "weight_map";
    return true;
  }
  bool string(string_t& value) override {
    if (in_map_ && depth_ == 2) names_.insert(value);
    return true;
  }
  bool start_object(std::size_t) override { return ++depth_ < 64; }
  bool end_object() override { return depth_-- > 0; }
  bool start_array(std::size_t) override { return ++depth_ < 64; }
  bool end_array() override { return depth_-- > 0; }
  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(number_integer_t) override { return true; }
  bool number_unsigned(number_unsigned_t) override { return true; }
  bool number_float(number_float_t, const string_t&) override { return true; }
  bool binary(binary_t&) override { return true; }
  bool parse_error(std::size_t, const std::string&, const nlohmann::detail::exception&) override { return false; }

 private:
  int depth_ = 0;
  bool in_map_ = false;
  std::set<std::string> names_;
};

fs::path IndexIn(const fs::path& directory, const std::string& weights) {
  std::error_code error;
  if (weights.find(kIndexName) != std::string::npos) return directory / weights;
  if (fs::exists(directory / kStandardIndexName, error)) return directory / kStandardIndexName;
  fs::path only;
  for (fs::directory_iterator at(directory, error), end; !error && at != end; at.increment(error)) {
    if (at->path().filename().string().find(kIndexName) == std::string::npos) continue;
    if (!only.empty()) return {};
    only = at->path();
  }
  return only;
}

}  // namespace

std::vector<std::string> AbsentFiles(const std::string& directory, const std::string& weights) {
  std::error_code error;
  const fs::path index = IndexIn(directory, weights);
  if (index.empty() || !fs::is_regular_file(index, error) || fs::file_size(index, error) > kMaxIndexFileBytes)
    return {};
  std::ifstream file(index, std::ios::binary);
  ShardNames shards;
  if (!Json::sax_parse(file, &shards)) return {};
  std::vector<std::string> absent;
  for (const std::string& name : shards.names()) {
    const fs::path path(name);
    const bool below = !path.is_absolute() && std::find(path.begin(), path.end(), "..") == path.end();
    if (below && !name.empty() && !fs::exists(directory / path, error)) absent.push_back(name);
  }
  return absent;
}

}  // namespace keyload::cli
