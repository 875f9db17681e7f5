// Asks a server that is not there, and ends with 0 if the library says so.
#include <iostream>

#include "keyload/attach.h"
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
  if (!absl::IsUnavailable(status) || !keyload::GetErrorInfo(status).reason.empty()) return 1;
  status = keyload::Attach("unix:no-such-folder/attach.sock", keyload::AttachSelection{.model = "m"}).status();
  std::cout << status << "\n";
  return absl::IsUnavailable(status) && keyload::AttachErrorReason(status).empty() ? 0 : 1;
}
