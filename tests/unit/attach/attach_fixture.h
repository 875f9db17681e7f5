#pragma once

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "server/attach/attach_server.h"
#include "tests/support/fake_attach_source.h"
#include "tests/unit/attach/raw_attach_client.h"

namespace keyload {

// A server that hands out a made-up model, on a socket in a folder of its own.
class AttachFixture : public testing::Test {
 protected:
  // For tests in which the machine may take its time.
  static constexpr std::chrono::minutes kPatient{10};

  AttachFixture() {
    std::string pattern = (std::filesystem::temp_directory_path() / "attach-XXXXXX").string();
    folder_ = mkdtemp(pattern.data());
    chmod(folder_.c_str(), 0755);
    path_ = folder_ + "/attach.sock";
  }
  ~AttachFixture() override {
    server_ = nullptr;
    std::filesystem::remove_all(folder_);
  }

  void Start(const FakeAttachModel::Shape& shape = {},
             const AttachServer::Options& options = {.acknowledge = kPatient}) {
    model_ = std::make_shared<FakeAttachModel>(shape);
    source_ = std::make_unique<FakeAttachSource>(model_);
    auto server = AttachServer::Start(ListenForAttach(path_), *source_, rules_, options);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }
  std::string address() const { return "unix:" + path_; }

  std::string folder_;
  std::string path_;
  CurrentPeerRules rules_{PeerRules()};
  std::shared_ptr<FakeAttachModel> model_;
  std::unique_ptr<FakeAttachSource> source_;
  std::unique_ptr<AttachServer> server_;
};

// The same, with clients that say what a test wants.
class AttachServerTest : public AttachFixture {
 protected:
  RawAttachClient Greeted(uint16_t batch = 253, std::string label = "test") {
    RawAttachClient client(path_);
    client.Send(AttachHello{.token = source_->MakeToken(), .batch = batch, .label = std::move(label)});
    return client;
  }
  // A client that has a complete lease.
  RawAttachClient Attached(uint16_t batch = 253) {
    RawAttachClient client = Greeted(batch);
    const uint32_t all = client.ReceiveA<AttachGranted>().value().descriptors;
    for (uint32_t next = 1; next < all;) {
      client.Send(AttachNext{.descriptor = next});
      next += client.ReceiveA<AttachDescriptors>().value().count;
    }
    client.Send(AttachNext{.descriptor = all});
    return client;
  }
  // The connection's last words.
  AttachError LastError(RawAttachClient& client) {
    const std::optional<AttachError> error = client.ReceiveA<AttachError>();
    EXPECT_TRUE(error);
    EXPECT_FALSE(client.Receive());
    return error.value_or(AttachError());
  }
};

}  // namespace keyload
