#include "tests/unit/expected/expected_case.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "server/base/error.h"
#include "server/base/strings.h"
#include "tests/support/source_dir.h"

namespace keyload {

std::string SourceTemplates() { return StrCat(SourceDir(), "/server/expected/templates"); }

absl::StatusOr<std::shared_ptr<const Manifest>> DeriveFrom(std::string_view json,
                                                           const TemplateDirectories& directories) {
  KEYLOAD_ASSIGN_OR_RETURN(const ConfigValue config, ParseConfigJson(json, "config.json"));
  return DeriveManifest(config, "config.json", directories);
}

absl::StatusOr<std::shared_ptr<const Manifest>> Derive(std::string_view config) {
  return DeriveFrom(config, {SourceTemplates()});
}

std::vector<std::string> Describe(const Manifest& manifest) {
  static constexpr std::string_view kKinds[] = {"", " buffer", " non_persistent"};
  std::vector<std::string> lines;
  for (const TensorSpec& tensor : manifest.tensors) {
    lines.push_back(StrCat(tensor.name, " [", absl::StrJoin(tensor.shape, ", "), "] ", DTypeName(tensor.dtype),
                           kKinds[static_cast<size_t>(tensor.kind)]));
  }
  return lines;
}

TemplateFolder::TemplateFolder() {
  std::string path = (std::filesystem::temp_directory_path() / "keyload-templates-XXXXXX").string();
  path_ = mkdtemp(path.data());
}

TemplateFolder::~TemplateFolder() { std::filesystem::remove_all(path_); }

void TemplateFolder::Write(std::string_view name, std::string_view text) {
  const std::filesystem::path file = std::filesystem::path(path_) / name;
  std::filesystem::create_directories(file.parent_path());
  std::ofstream(file) << text;
}

absl::StatusOr<std::shared_ptr<const Manifest>> TemplateFolder::Derive(std::string_view family,
                                                                       std::string_view config) {
  Write("toy.toml", family);
  return DeriveFrom(config, {path_});
}

}  // namespace keyload
