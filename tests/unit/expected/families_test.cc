#include <openssl/sha.h>

#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>

#include "absl/strings/escaping.h"
#include "absl/strings/str_join.h"
#include "gtest/gtest.h"
#include "server/base/strings.h"
#include "tests/support/source_dir.h"
#include "tests/unit/expected/expected_case.h"

namespace keyload {
namespace {

using Json = nlohmann::json;

// tests/data/expected/make_cases.py says what a case is.
std::vector<Json> Cases() {
  std::ifstream file(StrCat(SourceDir(), "/tests/data/expected/cases.json"));
  return Json::parse(file).get<std::vector<Json>>();
}

// The lines that a case's digest is made of.
std::string StateDictLines(const Manifest& manifest, size_t& keys) {
  std::string lines;
  keys = 0;
  for (const TensorSpec& tensor : manifest.tensors) {
    if (tensor.kind == TensorKind::kNonPersistentBuffer) continue;
    StrAppend(&lines, tensor.name, " ", absl::StrJoin(tensor.shape, "x"), "\n");
    ++keys;
  }
  return lines;
}

std::string Sha256(const std::string& text) {
  std::string digest(SHA256_DIGEST_LENGTH, '\0');
  SHA256(reinterpret_cast<const unsigned char*>(text.data()), text.size(),
         reinterpret_cast<unsigned char*>(digest.data()));
  return absl::BytesToHexString(digest);
}

TEST(Families, HaveTheKeysAndShapesOfTheModelsStateDicts) {
  const std::vector<Json> cases = Cases();
  ASSERT_GE(cases.size(), 80u);
  for (const Json& test : cases) {
    SCOPED_TRACE(test["name"].get<std::string>());
    const auto manifest = Derive(test["config"].dump());
    if (!manifest.ok()) {
      ADD_FAILURE() << manifest.status();
      continue;
    }
    size_t keys = 0;
    const std::string lines = StateDictLines(**manifest, keys);
    EXPECT_EQ(keys, test["keys"].get<size_t>());
    EXPECT_EQ(Sha256(lines), test["sha256"].get<std::string>()) << lines.substr(0, 4000);
  }
}

}  // namespace
}  // namespace keyload
