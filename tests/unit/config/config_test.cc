#include "server/config/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "server/base/error.h"

namespace keyload {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::StartsWith;
using Environment = std::map<std::string, std::string>;

constexpr uint64_t kGiB = uint64_t{1} << 30;

// `file` is what every path reads as.
absl::StatusOr<Config> Parse(const std::vector<std::string>& args, const Environment& environment = {},
                             const std::string& file = "") {
  return ParseConfig(args, environment, [&](const std::string&) { return absl::StatusOr<std::string>(file); });
}

std::string Refusal(const std::vector<std::string>& args, const Environment& environment = {}) {
  const absl::StatusOr<Config> config = Parse(args, environment);
  EXPECT_FALSE(config.ok());
  if (config.ok()) return "";
  EXPECT_EQ(ErrorReason(config.status()), Reason::kBadRequest);
  return std::string(config.status().message());
}

TEST(ParseConfig, HasDefaults) {
  const absl::StatusOr<Config> config = Parse({});
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_THAT(config->listen, ElementsAre("unix:/run/keyload/keyload.sock"));
  EXPECT_THAT(config->model_roots, IsEmpty());
  EXPECT_FALSE(config->simulate_gpus.has_value());
  EXPECT_FALSE(config->host_memory_bytes.has_value());
  EXPECT_FALSE(config->reuse_memory_bytes.has_value());
  EXPECT_FALSE(config->hold_memory_bytes.has_value());
  EXPECT_FALSE(config->scratch_bytes.has_value());
  EXPECT_EQ(config->huge_pages, HugePages::kNever);
  EXPECT_FALSE(config->header_memory_bytes.has_value());
  EXPECT_EQ(config->concurrent_loads, 2u);
  EXPECT_EQ(config->load_queue, 64u);
  EXPECT_EQ(config->grace, absl::Seconds(30));
  EXPECT_EQ(config->state_dir, "");
  EXPECT_EQ(config->restore, Restore::kLazily);
  EXPECT_FALSE(config->check_config);
  EXPECT_FALSE(config->show_text);
}

TEST(ParseConfig, ReadsEveryFlag) {
  const absl::StatusOr<Config> config = Parse({"--listen",
                                               "unix:/a",
                                               "--listen=127.0.0.1:0",
                                               "--model-root",
                                               "/m",
                                               "--model-root",
                                               "/n",
                                               "--simulate-gpus",
                                               "2x80GiB@10GiB",
                                               "--host-memory",
                                               "64GiB",
                                               "--reuse-memory",
                                               "0",
                                               "--hold-memory",
                                               "2GiB",
                                               "--scratch-memory",
                                               "1GiB",
                                               "--header-memory",
                                               "2GiB",
                                               "--concurrent-loads",
                                               "4",
                                               "--io-threads",
                                               "3",
                                               "--load-queue",
                                               "5",
                                               "--grace",
                                               "1m30s",
                                               "--state-dir",
                                               "/var/lib/keyload",
                                               "--restore",
                                               "load",
                                               "--log-format",
                                               "json",
                                               "--log-level",
                                               "warning",
                                               "--check-config"});
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_THAT(config->listen, ElementsAre("unix:/a", "127.0.0.1:0"));
  EXPECT_THAT(config->model_roots, ElementsAre("/m", "/n"));
  ASSERT_TRUE(config->simulate_gpus.has_value());
  EXPECT_EQ(config->simulate_gpus->count, 2u);
  EXPECT_EQ(config->simulate_gpus->capacity_bytes, 80 * kGiB);
  EXPECT_EQ(config->simulate_gpus->copy_bytes_per_second, 10 * kGiB);
  EXPECT_EQ(config->host_memory_bytes, 64 * kGiB);
  EXPECT_EQ(config->reuse_memory_bytes, 0u);
  EXPECT_EQ(config->hold_memory_bytes, 2 * kGiB);
  EXPECT_EQ(config->scratch_bytes, kGiB);
  EXPECT_EQ(config->header_memory_bytes, 2 * kGiB);
  EXPECT_EQ(config->concurrent_loads, 4u);
  EXPECT_EQ(config->io_threads, 3u);
  EXPECT_EQ(config->load_queue, 5u);
  EXPECT_EQ(config->grace, absl::Seconds(90));
  EXPECT_EQ(config->state_dir, "/var/lib/keyload");
  EXPECT_EQ(config->restore, Restore::kAsAsked);
  EXPECT_EQ(config->log_format, LogFormat::kJson);
  EXPECT_EQ(config->log_level, LogLevel::kWarning);
  EXPECT_TRUE(config->check_config);
}

TEST(ParseConfig, SplitsTheListsOfTheEnvironment) {
  const absl::StatusOr<Config> config =
      Parse({}, {{"KEYLOADD_LISTEN", "unix:/a,localhost:1"}, {"KEYLOADD_MODEL_ROOT", "/m:/n"}});
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_THAT(config->listen, ElementsAre("unix:/a", "localhost:1"));
  EXPECT_THAT(config->model_roots, ElementsAre("/m", "/n"));
}

TEST(ParseConfig, TakesTemplateDirectoriesFromEverywhere) {
  EXPECT_THAT(Parse({})->template_dirs, IsEmpty());
  EXPECT_THAT(Parse({"--template-dir", "/t", "--template-dir", "/u"})->template_dirs, ElementsAre("/t", "/u"));
  EXPECT_THAT(Parse({}, {{"KEYLOADD_TEMPLATE_DIR", "/t:/u"}})->template_dirs, ElementsAre("/t", "/u"));
  EXPECT_THAT(Parse({"--config", "k.toml"}, {}, "template_dirs = [\"/t\"]\n")->template_dirs, ElementsAre("/t"));
  EXPECT_THAT(Refusal({"--template-dir", "t"}), HasSubstr("template directory \"t\" must be an absolute path"));
}

TEST(ParseConfig, AFlagWinsOverTheEnvironmentAndTheEnvironmentOverTheFile) {
  const std::string file = "io_threads = 1\nload_queue = 1\nconcurrent_loads = 1\n";
  const absl::StatusOr<Config> config =
      Parse({"--config", "f", "--io-threads", "3"}, {{"KEYLOADD_IO_THREADS", "2"}, {"KEYLOADD_LOAD_QUEUE", "2"}}, file);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->io_threads, 3u);
  EXPECT_EQ(config->load_queue, 2u);
  EXPECT_EQ(config->concurrent_loads, 1u);
}

TEST(ParseConfig, AListReplacesTheListBelowIt) {
  const absl::StatusOr<Config> config = Parse({"--config", "f", "--model-root", "/flag"},
                                              {{"KEYLOADD_MODEL_ROOT", "/environment"}, {"KEYLOADD_LISTEN", "unix:/e"}},
                                              "model_roots = [\"/file\"]\nlisten = [\"unix:/f\"]\n");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_THAT(config->model_roots, ElementsAre("/flag"));
  EXPECT_THAT(config->listen, ElementsAre("unix:/e"));
}

TEST(ParseConfig, ChecksWhatIsOverriddenToo) {
  EXPECT_THAT(Refusal({"--io-threads", "3"}, {{"KEYLOADD_IO_THREADS", "many"}}), StartsWith("KEYLOADD_IO_THREADS: "));
}

TEST(ParseConfig, TheStateDirectoryIsAnAbsolutePath) {
  EXPECT_THAT(Refusal({"--state-dir", "state"}), HasSubstr("absolute"));
  EXPECT_THAT(Refusal({"--restore", "later"}), StartsWith("--restore: "));
}

TEST(ParseConfig, AnEmptyVariableCountsAsAbsent) {
  const absl::StatusOr<Config> config = Parse({}, {{"KEYLOADD_SIMULATE_GPUS", ""}, {"KEYLOADD_CONFIG", ""}});
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_FALSE(config->simulate_gpus.has_value());
}

TEST(ParseConfig, TheFlagNamesTheFileBeforeTheEnvironment) {
  std::vector<std::string> read;
  const auto reader = [&](const std::string& path) {
    read.push_back(path);
    return absl::StatusOr<std::string>("");
  };
  ASSERT_TRUE(ParseConfig({"--config", "/flag"}, {{"KEYLOADD_CONFIG", "/environment"}}, reader).ok());
  ASSERT_TRUE(ParseConfig({}, {{"KEYLOADD_CONFIG", "/environment"}}, reader).ok());
  EXPECT_THAT(read, ElementsAre("/flag", "/environment"));
}

TEST(ParseConfig, NamesAFileThatCannotBeRead) {
  const absl::Status status = ParseConfig({"--config", "/no/such/file"}, {}, ReadConfigFile).status();
  EXPECT_THAT(std::string(status.message()), HasSubstr("/no/such/file"));
}

TEST(ParseConfig, RefusesWrongFlagsByName) {
  EXPECT_THAT(Refusal({"--model-roots", "/m"}), HasSubstr("--model-roots"));
  EXPECT_THAT(Refusal({"stray"}), HasSubstr("stray"));
  EXPECT_THAT(Refusal({"--io-threads"}), HasSubstr("--io-threads"));
  EXPECT_THAT(Refusal({"--io-threads", "1", "--io-threads", "2"}), HasSubstr("--io-threads: given more than once"));
  EXPECT_THAT(Refusal({"--listen", "unix:/a", "unix:/b"}), HasSubstr("unix:/b"));
}

TEST(ParseConfig, ServesBeyondLoopbackOnlyWithTlsOrWhenToldTo) {
  EXPECT_THAT(Refusal({"--listen", "0.0.0.0:7077"}), HasSubstr("--insecure-listen"));
  EXPECT_THAT(Refusal({"--listen", "unix:/a", "--listen", "node-7:7077"}), HasSubstr("node-7:7077"));
  EXPECT_THAT(Refusal({"--listen", "0.0.0.0:7077", "--insecure-listen=false"}), HasSubstr("--insecure-listen"));
  EXPECT_TRUE(Parse({"--listen", "0.0.0.0:7077", "--insecure-listen"}).ok());
  EXPECT_TRUE(Parse({"--listen", "0.0.0.0:7077", "--tls-cert", "/c", "--tls-key", "/k"}).ok());
  EXPECT_TRUE(Parse({"--listen", "127.0.0.1:7077", "--listen", "unix:/a"}).ok());
}

TEST(ParseConfig, SwitchesAreTrueOrFalseEverywhere) {
  EXPECT_FALSE(Parse({})->reflection);
  EXPECT_TRUE(Parse({"--reflection"})->reflection);
  EXPECT_FALSE(Parse({"--reflection=false"})->reflection);
  EXPECT_THAT(Refusal({"--reflection=perhaps"}), HasSubstr("--reflection"));
  const auto from_environment = [](const char* value) {
    return ParseConfig({}, {{"KEYLOADD_REFLECTION", value}}, ReadConfigFile);
  };
  EXPECT_TRUE(from_environment("true")->reflection);
  EXPECT_THAT(std::string(from_environment("1").status().message()), StartsWith("KEYLOADD_REFLECTION: "));
}

TEST(ParseConfig, WhoMayCall) {
  const Config config = *Parse({"--socket-mode", "0666", "--allow-uid", "1000", "--allow-uid", "0", "--allow-gid",
                                "10001", "--socket-role", "read", "--token-file", "/t"});
  EXPECT_EQ(config.socket_mode, 0666u);
  EXPECT_THAT(config.allowed_uids, ElementsAre(1000, 0));
  EXPECT_THAT(config.allowed_gids, ElementsAre(10001));
  EXPECT_EQ(config.socket_role, Role::kRead);
  EXPECT_EQ(config.token_file, "/t");
}

TEST(ParseConfig, ReadsTheBoundsForPeers) {
  const Config config = *Parse({"--request-memory", "2MiB", "--send-memory", "3MiB", "--max-connections", "4",
                                "--max-connections-per-peer", "5", "--max-calls", "6", "--max-calls-per-peer", "7"});
  EXPECT_EQ(config.request_memory_bytes, 2u << 20);
  EXPECT_EQ(config.send_bytes, 3u << 20);
  EXPECT_EQ(config.max_connections, 4u);
  EXPECT_EQ(config.max_connections_per_peer, 5u);
  EXPECT_EQ(config.max_calls, 6u);
  EXPECT_EQ(config.max_calls_per_peer, 7u);
}

TEST(ChangeConfig, TakesWhatMayChangeAndNamesWhatNeedsAStart) {
  const Config running = *Parse({"--listen", "unix:/a", "--model-root", "/m"});
  const Config wanted = *Parse({"--listen",        "unix:/b", "--model-root",       "/m",
                                "--model-root",    "/n",      "--simulate-gpus",    "2x1GiB",
                                "--host-memory",   "1GiB",    "--reuse-memory",     "1MiB",
                                "--hold-memory",   "2GiB",    "--scratch-memory",   "1GiB",
                                "--header-memory", "1GiB",    "--concurrent-loads", "4",
                                "--io-threads",    "3",       "--load-queue",       "5",
                                "--grace",         "1s",      "--log-format",       "json",
                                "--log-level",     "debug",   "--template-dir",     "/t",
                                "--allow-uid",     "7",       "--huge-pages",       "try",
                                "--reflection"});
  const ConfigChange change = ChangeConfig(running, wanted);
  EXPECT_THAT(change.changed, ElementsAre("--allow-uid", "--model-root", "--hold-memory", "--load-queue", "--grace",
                                          "--log-format", "--log-level"));
  EXPECT_THAT(change.needs_start, ElementsAre("--listen", "--reflection", "--template-dir", "--simulate-gpus",
                                              "--host-memory", "--reuse-memory", "--scratch-memory", "--huge-pages",
                                              "--header-memory", "--concurrent-loads", "--io-threads"));
  EXPECT_THAT(change.config.model_roots, ElementsAre("/m", "/n"));
  EXPECT_EQ(change.config.hold_memory_bytes, 2 * kGiB);
  EXPECT_EQ(change.config.load_queue, 5u);
  EXPECT_EQ(change.config.grace, absl::Seconds(1));
  EXPECT_EQ(change.config.log_format, LogFormat::kJson);
  EXPECT_EQ(change.config.log_level, LogLevel::kDebug);
  EXPECT_THAT(change.config.listen, ElementsAre("unix:/a"));
  EXPECT_EQ(change.config.scratch_bytes, running.scratch_bytes);
}

TEST(ChangeConfig, NothingChangesBetweenEqualConfigurations) {
  const Config config = *Parse({"--simulate-gpus", "2x1GiB", "--model-root", "/m"});
  const ConfigChange change = ChangeConfig(config, config);
  EXPECT_THAT(change.changed, IsEmpty());
  EXPECT_THAT(change.needs_start, IsEmpty());
}

TEST(ParseConfig, HelpNamesEveryFlagAndReadsNoFile) {
  const absl::StatusOr<Config> config =
      ParseConfig({"--config", "f", "--help"}, {}, [](const std::string&) -> absl::StatusOr<std::string> {
        ADD_FAILURE() << "read";
        return "";
      });
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_TRUE(config->show_text);
  for (const char* flag :
       {"--listen", "--model-root", "--simulate-gpus", "--host-memory", "--reuse-memory", "--hold-memory",
        "--scratch-memory", "--huge-pages", "--header-memory", "--concurrent-loads", "--io-threads", "--load-queue",
        "--grace", "--log-format", "--log-level", "--config", "--check-config", "--version"}) {
    EXPECT_THAT(config->text, HasSubstr(flag));
  }
}

TEST(ParseConfig, VersionIsOneLine) {
  const absl::StatusOr<Config> config = Parse({"--version"});
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_TRUE(config->show_text);
  EXPECT_THAT(config->text, ::testing::MatchesRegex("keyloadd [0-9]+\\.[0-9]+\\.[0-9]+\n"));
}

}  // namespace
}  // namespace keyload
