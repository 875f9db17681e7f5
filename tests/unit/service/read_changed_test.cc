// Tensors that are read from their file while somebody writes to it.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <future>
#include <string>

#include "server/base/error.h"
#include "tests/unit/service/loader_node.h"

namespace keyload {
namespace {

constexpr uint64_t kBytes = 64 << 10;

class ReadChanged : public testing::Test {
 protected:
  ReadChanged() : file_(node_.dir() + "/model.safetensors") {
    WriteSafetensors(file_, {{.name = "a", .dtype = DType::kU8, .shape = {kBytes}, .data = ""}});
  }

  absl::Status LoadAndReadWhileTheFileIsWritten(const LoadSpec& spec) {
    EXPECT_EQ(node_.Load(spec)->outcome, Outcome::kComplete);
    const ModelHandle model = node_.registry().Use("m").value();
    const absl::StatusOr<TensorBytes> bytes =
        node_.service().OpenTensor(*model, static_cast<uint32_t>(model->FindKey("a")), {});
    EXPECT_TRUE(bytes.ok()) << bytes.status();
    const uint64_t calls = node_.reads().calls();
    node_.reads().Hold();
    std::future<absl::Status> read = std::async(std::launch::async, [&] {
      std::string buffer(kBytes, '\0');
      return bytes->Read(0, std::as_writable_bytes(std::span(buffer)));
    });
    node_.reads().WaitForCalls(calls + 1);  // every check before the read has passed
    std::fstream(file_, std::ios::in | std::ios::out | std::ios::binary).seekp(-1, std::ios::end).put('x');
    node_.reads().Release();
    return read.get();
  }

  LoaderNode node_;
  const std::string file_;
};

TEST_F(ReadChanged, ReadOfAMappedTensorBesideAWriterSaysThatTheFileChanged) {
  LoadSpec spec = node_.Spec();
  spec.device_map = {.policy = "cpu"};
  const absl::Status status = LoadAndReadWhileTheFileIsWritten(spec);
  EXPECT_EQ(ErrorReason(status), Reason::kCheckpointChanged) << status;
  EXPECT_EQ(ErrorDetails(status)["file"], "model.safetensors");
}

TEST_F(ReadChanged, ReadOfADiskTensorBesideAWriterSaysThatTheFileChanged) {
  LoadSpec spec = node_.Spec();
  spec.device_map = {.policy = "disk"};
  EXPECT_EQ(ErrorReason(LoadAndReadWhileTheFileIsWritten(spec)), Reason::kCheckpointChanged);
}

}  // namespace
}  // namespace keyload
