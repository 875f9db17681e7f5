// Asks a server that is not there, and ends with 0 if the library says so.
#include <iostream>

#include "keyload/client.h"

int main() {
  auto client = keyload::Client::Connect({.address = "unix:no-such-folder/keyload.sock"});
  if (!client.ok()) {
    std::cerr << client.status() << "\n";
    return 1;
  }
  keyload::v1::LoadSpec spec;
  spec.set_model("m");
  absl::Status status = (*client)->Load(spec).status();
  std::cout << status << "\n";
  return absl::IsUnavailable(status) && keyload::GetErrorInfo(status).reason.empty() ? 0 : 1;
}
