// Hands out a made-up model on a socket until its standard input ends: what clients in other languages are tested
// against.
//
//   keyload-attach-fixture SOCKET SEGMENTS TENSORS ELEMENTS
//
// Prints "ready", and answers a line of input with a line of output: "token" makes a one-time token, in hex; "note
// LEASE" tells one lease of generation 8; "drain" tells all that the server shuts down; "end LEASE" ends one; "leases"
// counts them, "attached" those that ever had everything; "peer" gives the last peer's pid, uid and label.

#include <unistd.h>

#include <charconv>
#include <cstdio>
#include <iostream>
#include <memory>
#include <string>
#include <string_view>

#include "absl/strings/escaping.h"
#include "server/attach/attach_server.h"
#include "server/base/error.h"
#include "server/base/strings.h"
#include "tests/support/fake_attach_source.h"

namespace {

uint32_t Number(std::string_view text) {
  uint32_t value = 0;
  std::from_chars(text.data(), text.data() + text.size(), value);
  return value;
}

std::string Answer(std::string_view line, keyload::AttachServer& server, keyload::FakeAttachSource& source) {
  constexpr std::string_view kEnd = "end ";
  constexpr std::string_view kNote = "note ";
  if (line == "token") {
    const keyload::AttachTokenBytes token = source.MakeToken();
    return absl::BytesToHexString({reinterpret_cast<const char*>(token.data()), token.size()});
  }
  if (line.substr(0, kNote.size()) == kNote) {
    server.Note(std::string(line.substr(kNote.size())), keyload::AttachNoteKind::kNewGeneration, 8);
  } else if (line == "drain") {
    server.NoteAll(keyload::AttachNoteKind::kDraining);
  } else if (line.substr(0, kEnd.size()) == kEnd) {
    server.End(std::string(line.substr(kEnd.size())),
               keyload::MakeError(keyload::Reason::kModelNotFound, "the model was unloaded"));
  } else if (line == "leases") {
    return keyload::StrCat(server.Count().leases);
  } else if (line == "attached") {
    return keyload::StrCat(source.attached());
  } else if (line == "peer") {
    const keyload::AttachPeer peer = source.last_peer();
    return keyload::StrCat(peer.process.pid, " ", peer.process.uid, " ", peer.label);
  } else {
    return "unknown";
  }
  server.Count();  // what was asked has happened
  return "done";
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 5) {
    std::fprintf(stderr, "usage: keyload-attach-fixture SOCKET SEGMENTS TENSORS ELEMENTS\n");
    return 2;
  }
  keyload::FakeAttachSource source(std::make_shared<keyload::FakeAttachModel>(keyload::FakeAttachModel::Shape{
      .segments = Number(arguments[2]), .tensors = Number(arguments[3]), .elements = Number(arguments[4])}));
  const keyload::CurrentPeerRules rules{keyload::PeerRules()};
  auto server = keyload::AttachServer::Start(keyload::ListenForAttach(arguments[1]), source, rules, {});
  if (!server.ok()) {
    std::cerr << server.status() << "\n";
    return 1;
  }
  std::cout << "ready" << std::endl;
  for (std::string line; std::getline(std::cin, line);) std::cout << Answer(line, **server, source) << std::endl;
  *server = nullptr;
  unlink(arguments[1]);
  return 0;
}
