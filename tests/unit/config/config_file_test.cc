#include "server/config/config_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>

#include "absl/strings/str_cat.h"
#include "server/base/error.h"
#include "tests/support/source_dir.h"

namespace keyload {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::StartsWith;

std::string Refusal(std::string_view content) {
  Config config;
  const absl::Status status = ApplyConfigFile("k.toml", content, config);
  EXPECT_FALSE(status.ok()) << content;
  EXPECT_EQ(ErrorReason(status), Reason::kBadRequest);
  return std::string(status.message());
}

TEST(ApplyConfigFile, ReadsEveryKey) {
  Config config;
  const absl::Status status = ApplyConfigFile("k.toml", R"(
    listen = ["unix:/run/a.sock",
              "[::1]:7077"]
    model_roots = ["/models"]
    simulate_gpus = "8x141GiB"
    host_memory = "1TiB"
    scratch_memory = 1073741824
    concurrent_loads = 3
    io_threads = 2
    load_queue = 10
    grace = "5s"
    log_format = "json"
    log_level = "debug"
    insecure_listen = true
    socket_mode = "0666"
    allow_uid = ["1000", "0"]
    allow_gid = ["10001"]
    socket_role = "load"
    tls_cert = "/c.pem"
    tls_key = "/k.pem"
    tls_client_ca = "/a.pem"
    token_file = "/t"
    health_listen = "0.0.0.0:8086"
    metrics_listen = "0.0.0.0:9464"
    reflection = true
  )",
                                              config);
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_THAT(config.listen, ElementsAre("unix:/run/a.sock", "[::1]:7077"));
  EXPECT_THAT(config.model_roots, ElementsAre("/models"));
  EXPECT_EQ(config.simulate_gpus->count, 8u);
  EXPECT_EQ(config.host_memory_bytes, uint64_t{1} << 40);
  EXPECT_EQ(config.scratch_bytes, uint64_t{1} << 30);
  EXPECT_EQ(config.concurrent_loads, 3u);
  EXPECT_EQ(config.io_threads, 2u);
  EXPECT_EQ(config.load_queue, 10u);
  EXPECT_EQ(config.grace, absl::Seconds(5));
  EXPECT_EQ(config.log_format, LogFormat::kJson);
  EXPECT_EQ(config.log_level, LogLevel::kDebug);
  EXPECT_TRUE(config.insecure_listen);
  EXPECT_EQ(config.socket_mode, 0666u);
  EXPECT_THAT(config.allowed_uids, ElementsAre(1000, 0));
  EXPECT_THAT(config.allowed_gids, ElementsAre(10001));
  EXPECT_EQ(config.socket_role, Role::kLoad);
  EXPECT_EQ(config.tls_cert, "/c.pem");
  EXPECT_EQ(config.tls_key, "/k.pem");
  EXPECT_EQ(config.tls_client_ca, "/a.pem");
  EXPECT_EQ(config.token_file, "/t");
  EXPECT_EQ(config.health_listen, "0.0.0.0:8086");
  EXPECT_EQ(config.metrics_listen, "0.0.0.0:9464");
  EXPECT_TRUE(config.reflection);
}

TEST(ApplyConfigFile, RefusesAnUnknownKeyWithItsLine) {
  EXPECT_EQ(Refusal("io_threads = 2\n\nmodel_root = [\"/m\"]\n"), "k.toml:3: model_root: unknown key");
  EXPECT_THAT(Refusal("[server]\nio_threads = 2\n"), StartsWith("k.toml:1: server: unknown key"));
}

TEST(ApplyConfigFile, RefusesARepeatedKeyWithItsLine) {
  const std::string refusal = Refusal("io_threads = 2\nio_threads = 3\n");
  EXPECT_THAT(refusal, StartsWith("k.toml:2: "));
  EXPECT_THAT(refusal, HasSubstr("io_threads"));
}

TEST(ApplyConfigFile, RefusesAWrongTypeWithKeyAndLine) {
  EXPECT_EQ(Refusal("\nio_threads = \"2\"\n"), "k.toml:2: io_threads: expected an integer");
  EXPECT_EQ(Refusal("io_threads = 2.0\n"), "k.toml:1: io_threads: expected an integer");
  EXPECT_EQ(Refusal("grace = 30\n"), "k.toml:1: grace: expected a string");
  EXPECT_EQ(Refusal("listen = \"unix:/a\"\n"), "k.toml:1: listen: expected an array of strings");
  EXPECT_EQ(Refusal("model_roots = [\"/a\", 1]\n"), "k.toml:1: model_roots: expected an array of strings");
  EXPECT_EQ(Refusal("reflection = \"true\"\n"), "k.toml:1: reflection: expected true or false");
  EXPECT_EQ(Refusal("reflection = 1\n"), "k.toml:1: reflection: expected true or false");
  EXPECT_THAT(Refusal("host_memory = true\n"), StartsWith("k.toml:1: host_memory: expected a string such as"));
}

TEST(ApplyConfigFile, RefusesAWrongValueWithKeyAndLine) {
  EXPECT_THAT(Refusal("\n\nload_queue = -1\n"), StartsWith("k.toml:3: load_queue: expected a whole number"));
  EXPECT_THAT(Refusal("host_memory = -1\n"), StartsWith("k.toml:1: host_memory: "));
  EXPECT_THAT(Refusal("listen = []\n"), StartsWith("k.toml:1: listen: "));
  for (const char* key : {"allow_uid", "allow_gid"}) {
    EXPECT_THAT(Refusal(absl::StrCat(key, " = []\n")), HasSubstr("leave the key out to let everybody in"));
  }
}

TEST(ApplyConfigFile, RefusesASyntaxErrorWithItsLine) {
  EXPECT_THAT(Refusal("io_threads = 2\nload_queue =\n"), StartsWith("k.toml:2: "));
  EXPECT_THAT(Refusal("listen = [\"unterminated\n"), StartsWith("k.toml:1: "));
}

TEST(ApplyConfigFile, TheSampleIsValidAndStatesTheDefaults) {
  const std::string path = SourceDir() + "/deploy/keyloadd.toml";
  const absl::StatusOr<Config> config = ParseConfig({"--config", path, "--check-config"}, {}, ReadConfigFile);
  ASSERT_TRUE(config.ok()) << config.status();
  const Config defaults;
  EXPECT_EQ(config->listen, defaults.listen);
  EXPECT_EQ(config->scratch_bytes, defaults.scratch_bytes);
  EXPECT_EQ(config->send_bytes, defaults.send_bytes);
  EXPECT_EQ(config->max_connections, defaults.max_connections);
  EXPECT_EQ(config->max_connections_per_peer, defaults.max_connections_per_peer);
  EXPECT_EQ(config->max_calls, defaults.max_calls);
  EXPECT_EQ(config->max_calls_per_peer, defaults.max_calls_per_peer);
  EXPECT_EQ(config->huge_pages, defaults.huge_pages);
  EXPECT_EQ(config->concurrent_loads, defaults.concurrent_loads);
  EXPECT_EQ(config->io_threads, defaults.io_threads);
  EXPECT_EQ(config->load_queue, defaults.load_queue);
  EXPECT_EQ(config->grace, defaults.grace);
  EXPECT_EQ(config->log_format, defaults.log_format);
  EXPECT_EQ(config->log_level, defaults.log_level);
  EXPECT_EQ(config->socket_mode, defaults.socket_mode);
  EXPECT_EQ(config->socket_role, defaults.socket_role);
  EXPECT_THAT(config->allowed_uids, IsEmpty());
  EXPECT_EQ(config->insecure_listen, defaults.insecure_listen);
  EXPECT_EQ(config->reflection, defaults.reflection);
  EXPECT_THAT(config->model_roots, ElementsAre("/models"));
}

TEST(ReadConfigFile, RefusesADirectory) { EXPECT_FALSE(ReadConfigFile("/").ok()); }

TEST(ReadConfigFile, RefusesAFileWithoutEnd) {
  EXPECT_THAT(std::string(ReadConfigFile("/dev/zero").status().message()), HasSubstr("larger than 1 MiB"));
}

}  // namespace
}  // namespace keyload
