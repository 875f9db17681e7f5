#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "server/expected/derive_manifest.h"

namespace keyload {

// The templates of the source tree.
std::string SourceTemplates();

// What the templates of `directories` say about a config.json.
absl::StatusOr<std::shared_ptr<const Manifest>> DeriveFrom(std::string_view json,
                                                           const TemplateDirectories& directories);
// What the built-in templates say about a config.json.
absl::StatusOr<std::shared_ptr<const Manifest>> Derive(std::string_view config);

// "NAME [2, 3] BF16", with " buffer" or " non_persistent" where it is none of the parameters, in the manifest's order.
std::vector<std::string> Describe(const Manifest& manifest);

// A directory for templates that is gone with the object.
class TemplateFolder {
 public:
  TemplateFolder();
  ~TemplateFolder();
  TemplateFolder(const TemplateFolder&) = delete;

  void Write(std::string_view name, std::string_view text);
  // With `family` as the template of the model_type "toy".
  absl::StatusOr<std::shared_ptr<const Manifest>> Derive(std::string_view family, std::string_view config);
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

}  // namespace keyload
