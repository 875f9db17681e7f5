#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "tests/mock_client/connection.h"
#include "tests/mock_client/session.h"

namespace keyload::mock {

struct Scenario {
  std::string name;   // the file's name without ".json"
  std::string about;  // one sentence
  std::vector<std::unique_ptr<Step>> steps;
};

// Reads and parses a whole scenario file. INVALID_ARGUMENT names file, step and field; NOT_FOUND the file.
absl::StatusOr<Scenario> ReadScenario(const std::string& path);

// Runs the steps in a new directory under `work_dir`, unloads what they loaded and removes the directory. The error
// names the step. `daemon_pid` is for scenarios that end the daemon; 0: none may.
absl::Status RunScenario(const Scenario& scenario, const Server& server, const std::string& work_dir, int daemon_pid);

}  // namespace keyload::mock
