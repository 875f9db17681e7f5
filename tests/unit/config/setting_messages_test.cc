#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "server/base/error.h"
#include "server/config/config.h"

namespace keyload {
namespace {

struct WrongSetting {
  std::vector<std::string> flags;
  std::string message;
};

// Each rule of the settings with its whole message, as the operator reads it.
const WrongSetting kWrongSettings[] = {
    {{"--listen", "nowhere"}, "--listen: address \"nowhere\": expected unix:PATH or HOST:PORT"},
    {{"--listen", "unix:run"}, "--listen: address \"unix:run\": the path of a Unix socket must be absolute"},
    {{"--listen", "unix:/a", "--listen", "unix:/a"}, "--listen: address \"unix:/a\" is listed twice"},
    {{"--listen", "localhost:70777"},
     "--listen: address \"localhost:70777\": the port must be a number from 0 to 65535"},
    {{"--listen", "0.0.0.0:7077"},
     "--listen: 0.0.0.0:7077 is reached from other machines: give it TLS (--tls-cert, --tls-key), or say "
     "--insecure-listen to serve it without"},
    {{"--socket-mode", "0860"}, "--socket-mode: expected a mode such as 0660, not \"0860\""},
    {{"--socket-mode", "01777"}, "--socket-mode: expected a mode such as 0660, not \"01777\""},
    {{"--socket-mode", "7777"}, "--socket-mode: expected a mode such as 0660, not \"7777\""},
    {{"--allow-uid", "keyload"}, "--allow-uid: expected a whole number from 0 to 4294967294, not \"keyload\""},
    {{"--allow-gid", "4294967295"}, "--allow-gid: expected a whole number from 0 to 4294967294, not \"4294967295\""},
    {{"--socket-role", "root"}, "--socket-role: expected none, read, load, admin, not \"root\""},
    {{"--tls-cert", "cert.pem", "--tls-key", "/k"}, "--tls-cert: expected an absolute path, not \"cert.pem\""},
    {{"--tls-cert", "/c"}, "--tls-key: a certificate and its key go together"},
    {{"--tls-key", "/k"}, "--tls-cert: a certificate and its key go together"},
    {{"--tls-client-ca", "/a"},
     "--tls-client-ca: clients can only be verified over TLS: --tls-cert and --tls-key are missing"},
    {{"--token-file", "tokens"}, "--token-file: expected an absolute path, not \"tokens\""},
    {{"--health-listen", "unix:/h"}, "--health-listen: address \"unix:/h\": the port must be a number from 0 to 65535"},
    {{"--metrics-listen", ":9464"},
     "--metrics-listen: address \":9464\": the host is missing; every interface is 0.0.0.0 or [::]"},
    {{"--model-root", "models"}, "--model-root: model root \"models\" must be an absolute path"},
    {{"--model-root", ""}, "--model-root: model root \"\" must be an absolute path"},
    {{"--template-dir", "t"}, "--template-dir: template directory \"t\" must be an absolute path"},
    {{"--simulate-gpus", "80GiB"},
     "--simulate-gpus: expected COUNTxSIZE or COUNTxSIZE@RATE, as in 2x80GiB, not \"80GiB\""},
    {{"--simulate-gpus", "x80GiB"}, "--simulate-gpus: expected a whole number from 1 to 1024, not \"\""},
    {{"--simulate-gpus", "0x80GiB"}, "--simulate-gpus: expected a whole number from 1 to 1024, not \"0\""},
    {{"--simulate-gpus", "-1x1GiB"}, "--simulate-gpus: expected a whole number from 1 to 1024, not \"-1\""},
    {{"--simulate-gpus", "1025x1GiB"}, "--simulate-gpus: expected a whole number from 1 to 1024, not \"1025\""},
    {{"--simulate-gpus", "2x"}, "--simulate-gpus: \"\" is not a size such as 20GiB, 512MB or 4096"},
    {{"--simulate-gpus", "2x0"}, "--simulate-gpus: the size must not be 0"},
    {{"--simulate-gpus", "2x80GiB@"}, "--simulate-gpus: \"\" is not a size such as 20GiB, 512MB or 4096"},
    {{"--simulate-gpus", "2x80GiB@0"}, "--simulate-gpus: the size must not be 0"},
    {{"--simulate-gpus", "2x80GiB@1GiB@1GiB"},
     "--simulate-gpus: \"1GiB@1GiB\" is not a size such as 20GiB, 512MB or 4096"},
    {{"--simulate-gpus", "1024x9000000TiB"},
     "--simulate-gpus: \"1024x9000000TiB\" is more memory than 64 bits can count"},
    {{"--request-memory", "1023KiB"}, "--request-memory: at least 1MiB is needed, not \"1023KiB\""},
    {{"--send-memory", "0"}, "--send-memory: at least 1MiB is needed, not \"0\""},
    {{"--max-connections", "0"}, "--max-connections: expected a whole number from 1 to 1000000, not \"0\""},
    {{"--max-calls-per-peer", "x"}, "--max-calls-per-peer: expected a whole number from 1 to 1000000, not \"x\""},
    {{"--host-memory", "lots"}, "--host-memory: \"lots\" is not a size such as 20GiB, 512MB or 4096"},
    {{"--reuse-memory", "-1"}, "--reuse-memory: \"-1\" is not a size such as 20GiB, 512MB or 4096"},
    {{"--hold-memory", "half"}, "--hold-memory: \"half\" is not a size such as 20GiB, 512MB or 4096"},
    {{"--scratch-memory", "1KiB"}, "--scratch-memory: at least 1MiB is needed, not \"1KiB\""},
    {{"--header-memory", "1KiB"}, "--header-memory: at least 1MiB is needed, not \"1KiB\""},
    {{"--concurrent-loads", "0"}, "--concurrent-loads: expected a whole number from 1 to 1024, not \"0\""},
    {{"--io-threads", "many"}, "--io-threads: expected a whole number from 0 to 1024, not \"many\""},
    {{"--load-queue", "0"}, "--load-queue: expected a whole number from 1 to 1000000, not \"0\""},
    {{"--grace", "30"}, "--grace: expected a duration such as 30s or 2m, not \"30\""},
    {{"--grace", "inf"}, "--grace: expected a duration such as 30s or 2m, not \"inf\""},
    {{"--state-dir", "state"}, "--state-dir: expected an absolute path, not \"state\""},
    {{"--restore", "later"}, "--restore: expected lazy, load, none, not \"later\""},
    {{"--log-format", "xml"}, "--log-format: expected text, json, not \"xml\""},
    {{"--log-level", "INFO"}, "--log-level: expected debug, info, warning, error, not \"INFO\""},
    {{"--io-threads", "1", "--io-threads", "2"}, "--io-threads: given more than once"},
};

TEST(ParseConfig, AWrongValueGivesTheMessageOfItsRule) {
  for (const WrongSetting& wrong : kWrongSettings) {
    const absl::StatusOr<Config> config =
        ParseConfig(wrong.flags, {}, [](const std::string&) { return absl::StatusOr<std::string>(""); });
    ASSERT_FALSE(config.ok()) << wrong.message;
    EXPECT_EQ(std::string(config.status().message()), wrong.message);
    EXPECT_EQ(ErrorReason(config.status()), Reason::kBadRequest);
  }
}

}  // namespace
}  // namespace keyload
