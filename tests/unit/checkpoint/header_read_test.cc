#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "server/base/fd.h"
#include "server/checkpoint/checkpoint_index.h"
#include "server/io/page_cache.h"
#include "tests/support/checkpoint_builder.h"

namespace keyload {
namespace {

constexpr int64_t kTensorBytes = 4 << 20;

TEST(HeaderReadTest, LeavesTensorBytesOnTheDisk) {
  const TempDir dir;
  const std::string path = dir.File("model.safetensors");
  const std::vector<TestTensor> tensors = {
      {.name = "weight", .dtype = DType::kU8, .shape = {kTensorBytes}, .data = ""}};
  WriteSafetensors(path, tensors);
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  ASSERT_EQ(::fsync(fd.get()), 0);
  const uint64_t header_bytes = 8 + SafetensorsHeader(tensors).size();
  const ByteRange all = {0, header_bytes + kTensorBytes};
  ASSERT_TRUE(DropFromPageCache(fd.get(), path, {&all, 1}).ok());
  const uint64_t last_page = all.length / PageBytes() * PageBytes();
  const ByteRange whole_pages = {0, last_page};  // the kernel keeps a last page that is only partly in the range
  if (ResidentBytes(fd.get(), {&whole_pages, 1}) != 0u) GTEST_SKIP() << "the test's files are not on a disk";

  const ModelRoots roots = ModelRoots::Create({dir.path()}).value();
  const auto index = OpenCheckpoint(roots, {.path = path, .weights = ""}, {}, {});
  ASSERT_TRUE(index.ok()) << index.status();

  const uint64_t header_pages = (header_bytes + PageBytes() - 1) / PageBytes() * PageBytes();
  EXPECT_EQ(ResidentBytes(fd.get(), {&whole_pages, 1}), header_pages);
}

}  // namespace
}  // namespace keyload
