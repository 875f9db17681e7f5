#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/status/statusor.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "tests/mock_client/connection.h"
#include "tests/mock_client/scenario.h"

namespace {

// Files as they are; for a directory every *.json in it, by name.
std::vector<std::string> ScenarioFiles(const std::vector<std::string>& arguments) {
  std::vector<std::string> files;
  for (const std::string& argument : arguments) {
    std::error_code error;
    if (!std::filesystem::is_directory(argument, error)) {
      files.push_back(argument);
      continue;
    }
    std::vector<std::string> found;
    for (const auto& entry : std::filesystem::directory_iterator(argument, error)) {
      if (entry.path().extension() == ".json") found.push_back(entry.path().string());
    }
    std::sort(found.begin(), found.end());
    files.insert(files.end(), found.begin(), found.end());
  }
  return files;
}

// Empty for no file.
std::string ReadFile(const std::string& path) {
  if (path.empty()) return "";
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("cannot read " + path);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

void PrintResult(const keyload::mock::Scenario& scenario, const absl::Status& status, absl::Duration took) {
  std::cout << absl::StrFormat("%s %s (%.1f s)", status.ok() ? "PASS" : "FAIL", scenario.name,
                               absl::ToDoubleSeconds(took));
  if (!status.ok()) std::cout << ": " << status.message();
  std::cout << std::endl;
}

}  // namespace

int main(int argc, char** argv) {
  keyload::mock::Server server;
  std::string work_dir;
  int daemon_pid = 0;
  bool list = false;
  std::set<std::string> skipped;
  std::vector<std::string> arguments{"tests/integration/scenarios"};
  CLI::App app("Plays scripted scenarios against a running keyload daemon and checks what it answers.", "keyload-mock");
  app.add_option("--server", server.address, "unix:PATH or HOST:PORT")->envname("KEYLOAD_SERVER");
  std::string tls_ca;
  std::string tls_cert;
  std::string tls_key;
  std::string token_file;
  auto* ca_option = app.add_option("--tls-ca", tls_ca, "reach HOST:PORT over TLS, trusting these authorities (PEM)");
  app.add_option("--tls-cert", tls_cert, "the client's certificate (PEM)");
  app.add_option("--tls-key", tls_key, "its private key (PEM)");
  app.add_option("--token-file", token_file, "the token that every call shows; over TLS only")->needs(ca_option);
  app.add_option("--work-dir", work_dir, "where to make checkpoints; in one of the daemon's model roots");
  app.add_option("--daemon-pid", daemon_pid, "the daemon's process, for scenarios that end it");
  app.add_flag("--list", list, "name the scenarios and end");
  app.add_option("--skip", skipped, "do not play the scenario of this name; may be repeated")->allow_extra_args(false);
  app.add_option("SCENARIO", arguments, "scenario files, or directories of them")->capture_default_str();
  CLI11_PARSE(app, argc, argv);

  std::vector<keyload::mock::Scenario> scenarios;
  for (const std::string& file : ScenarioFiles(arguments)) {
    absl::StatusOr<keyload::mock::Scenario> scenario = keyload::mock::ReadScenario(file);
    if (!scenario.ok()) {
      std::cerr << scenario.status().message() << "\n";
      return 2;
    }
    if (skipped.erase(scenario->name) == 0) scenarios.push_back(*std::move(scenario));
  }
  if (!skipped.empty()) {
    std::cerr << "--skip: there is no scenario " << *skipped.begin() << "\n";
    return 2;
  }
  if (list) {
    for (const auto& scenario : scenarios) std::cout << scenario.name << ": " << scenario.about << "\n";
    return 0;
  }
  if (scenarios.empty() || server.address.empty() || work_dir.empty()) {
    std::cerr << "needs --server, --work-dir and at least one scenario\n";
    return 2;
  }
  server.tls_ca = ReadFile(tls_ca);
  server.tls_cert = ReadFile(tls_cert);
  server.tls_key = ReadFile(tls_key);
  server.token = std::string(absl::StripAsciiWhitespace(ReadFile(token_file)));
  if (const auto socket = keyload::mock::ConnectSocket(server.address); !socket.ok()) {
    std::cerr << socket.status().message() << "\n";
    return 1;
  }
  int failed = 0;
  for (const auto& scenario : scenarios) {
    const absl::Time start = absl::Now();
    const absl::Status status = keyload::mock::RunScenario(scenario, server, work_dir, daemon_pid);
    PrintResult(scenario, status, absl::Now() - start);
    failed += status.ok() ? 0 : 1;
  }
  std::cout << scenarios.size() - failed << " passed, " << failed << " failed\n";
  return failed == 0 ? 0 : 1;
}
